/* Compiled pipelines kept in a file between runs, in the folder that OFA_VULKAN_CACHE names. */
#ifndef OFA_VULKAN_CACHE_H
#define OFA_VULKAN_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "vulkan_device.h"

/* FNV-1a: what a hash starts with, and a hash with more bytes mixed in. */
#define VULKAN_HASH UINT64_C(0xcbf29ce484222325)
uint64_t vulkan_hash(uint64_t hash, const void *data, size_t bytes);

/* Create the cache of a network, filled from its file where there is one for this very driver. */
int vulkan_cache_load(vulkan_device *d, const char *network, VkPipelineCache *cache);

/* Write the file, or leave it as it is: it saves time and nothing else. */
void vulkan_cache_store(vulkan_device *d, const char *network, VkPipelineCache cache);

#endif
