/* A compiled subnet for Vulkan as data: shaders, and which buffers each launch works on. */
#ifndef OFA_VULKAN_NETWORK_H
#define OFA_VULKAN_NETWORK_H

#include <stddef.h>
#include <stdint.h>

/* The most buffers that a kernel may take. */
#define VULKAN_MAX_ARGUMENTS 16

/* What precedes a kernel's SPIR-V. */
typedef struct {
    uint32_t num_arguments;
    uint32_t grid[3];
} vulkan_kernel_head;

typedef struct {
    const vulkan_kernel_head *head;
    size_t bytes; /* of the SPIR-V behind it */
} vulkan_kernel;

typedef struct {
    uint32_t is_weight; /* in the weights; otherwise in the arena */
    uint32_t offset, bytes;
} vulkan_argument;

typedef struct {
    uint32_t kernel;
    uint32_t waits; /* for steps before it, whose results it reads or whose inputs it overwrites */
    const vulkan_argument *arguments;
} vulkan_step;

typedef struct {
    const unsigned char *weights;
    size_t weights_bytes;
    uint32_t input_offset; /* in the arena */
    uint32_t num_kernels;
    const vulkan_kernel *kernels;
    const vulkan_step *steps; /* as many as the network has */
} vulkan_network;

extern const vulkan_network OFA_VULKAN_NETWORK;

#endif
