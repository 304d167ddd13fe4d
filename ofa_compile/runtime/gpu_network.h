/* A compiled subnet for a GPU as data: kernels, and which buffers each launch works on. */
#ifndef OFA_GPU_NETWORK_H
#define OFA_GPU_NETWORK_H

#include <stddef.h>
#include <stdint.h>

/* The most buffers that a kernel may take. */
#define GPU_MAX_ARGUMENTS 16

/* What precedes a kernel's machine code. */
typedef struct {
    uint32_t num_arguments;
    uint32_t grid[3], threads[3];
    uint32_t unused;
    char name[32];
} gpu_kernel_head;

typedef struct {
    const gpu_kernel_head *head;
    size_t bytes; /* of the machine code behind it */
} gpu_kernel;

typedef struct {
    uint32_t is_weight; /* in the weights; otherwise in the arena */
    uint32_t offset, bytes;
} gpu_argument;

typedef struct {
    uint32_t kernel;
    uint32_t waits; /* for steps before it, whose results it reads or whose inputs it overwrites */
    const gpu_argument *arguments;
} gpu_step;

typedef struct {
    const unsigned char *weights;
    size_t weights_bytes;
    uint32_t input_offset; /* in the arena */
    uint32_t num_kernels;
    int needs_halves;      /* kernels compute in float16 */
    const char *built_for; /* architectures of the machine code, as people read them */
    int built_with;        /* version of CUDA, as its driver counts it */
    const gpu_kernel *kernels;
    const gpu_step *steps; /* as many as the network has */
} gpu_network;

extern const gpu_network OFA_GPU_NETWORK;

/* Round up to where the output begins behind the input in memory that the host sees. */
size_t gpu_round_up(size_t bytes);

#endif
