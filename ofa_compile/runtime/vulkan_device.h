/* One Vulkan device: the loader, the choice of a device, its memory and its queue. */
#ifndef OFA_VULKAN_DEVICE_H
#define OFA_VULKAN_DEVICE_H

#include <stdbool.h>

#include "gpu_error.h"
#include "vulkan_api.h"

typedef struct {
    VkBuffer buffer;
    VkDeviceMemory memory;
    void *mapped; /* NULL where the host cannot see it */
} vulkan_buffer;

typedef struct {
    vulkan_functions vk;
    VkInstance instance;
    VkPhysicalDevice physical;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t queue_family, timestamp_bits;
    bool has_halves; /* float16 in storage buffers and in arithmetic is switched on */
    VkDevice device;
    VkQueue queue;
    VkCommandPool commands;
    VkFence fence;
} vulkan_device;

/* All functions that return int return 0 or a code, which this explains. */
const char *vulkan_explain(int code);

/* Open the device of that number, or with that part of a name; the best one if `wanted` is NULL
 * or empty. With `needs_halves` only one that computes in float16 will do. One that cannot be opened is closed again; closing one twice does no harm. */
int vulkan_open(vulkan_device *d, const char *wanted, bool needs_halves);
void vulkan_close(vulkan_device *d);

int vulkan_create_buffer(vulkan_device *d, VkDeviceSize bytes, bool is_host_visible,
                         vulkan_buffer *buffer);
void vulkan_destroy_buffer(vulkan_device *d, vulkan_buffer *buffer);

/* Copy from the host into device memory, in pieces through a staging buffer. */
int vulkan_upload(vulkan_device *d, const vulkan_buffer *to, const void *from, size_t bytes);

int vulkan_allocate_commands(vulkan_device *d, VkCommandBuffer *commands);
int vulkan_begin(vulkan_device *d, VkCommandBuffer commands, VkFlags usage);
int vulkan_end(vulkan_device *d, VkCommandBuffer commands);
void vulkan_barrier(vulkan_device *d, VkCommandBuffer commands, VkFlags from_stage,
                    VkFlags from_access, VkFlags to_stage, VkFlags to_access);

/* Submit recorded commands and wait until the device has run them. */
int vulkan_submit(vulkan_device *d, VkCommandBuffer commands);

/* Turn a result into a code, and remember the call for vulkan_explain. */
int vulkan_check(VkResult result, const char *call);

#endif
