/* The network on an open device: its memory, its pipelines and its recorded commands. */
#ifndef OFA_VULKAN_PROGRAM_H
#define OFA_VULKAN_PROGRAM_H

#include "vulkan_device.h"
#include "vulkan_network.h"

typedef struct {
    const vulkan_network *network;
    uint32_t num_steps;
    size_t input_bytes, output_bytes, arena_bytes, output_offset;
    vulkan_buffer weights, arena;
    vulkan_buffer host; /* the input, then the output, as the host sees them */
    VkDescriptorSetLayout set_layouts[VULKAN_MAX_ARGUMENTS + 1]; /* by number of arguments */
    VkPipelineLayout layouts[VULKAN_MAX_ARGUMENTS + 1];
    VkPipelineCache cache;
    VkPipeline *pipelines; /* by kernel */
    VkDescriptorPool pool;
    VkDescriptorSet *sets; /* by step */
    VkCommandBuffer commands, timed_commands; /* the latter recorded when first wanted */
    VkQueryPool queries;
} vulkan_program;

/* Upload weights, build pipelines and record one run. On failure everything is given back. */
int vulkan_program_create(vulkan_program *p, vulkan_device *d);
void vulkan_program_destroy(vulkan_program *p, vulkan_device *d);

/* Run once; where `step_milliseconds` is not NULL it receives the device's time of each step. */
int vulkan_program_run(vulkan_program *p, vulkan_device *d, const float *input, float *output,
                       double *step_milliseconds);

#endif
