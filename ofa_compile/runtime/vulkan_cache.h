/* Compiled pipelines kept in a file between runs, in the folder that OFA_VULKAN_CACHE names. */
#ifndef OFA_VULKAN_CACHE_H
#define OFA_VULKAN_CACHE_H

#include "vulkan_device.h"

/* Create the cache of a network, filled from its file where there is one for this very driver. */
int vulkan_cache_load(vulkan_device *d, const char *network, VkPipelineCache *cache);

/* Write the file, or leave it as it is: it saves time and nothing else. */
void vulkan_cache_store(vulkan_device *d, const char *network, VkPipelineCache cache);

#endif
