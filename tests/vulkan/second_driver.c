/* A driver for a second device: the first one's driver under another name and with lower limits. What
 * it is given to run leaves a file behind.
 *   OFA_FIRST_DRIVER=/path/libvulkan_lvp.so OFA_SECOND_RAN=/path/file */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../ofa_compile/runtime/vulkan_api.h"

typedef void *(*lookup)(void *, const char *);
typedef void (*describe_function)(VkPhysicalDevice, VkPhysicalDeviceProperties *);
typedef VkResult (*submit_function)(VkQueue, uint32_t, const void *, VkFence);

static lookup first_device;
static describe_function first_describe;
static submit_function first_submit;

static void *first_driver(const char *name) {
    return dlsym(dlopen(getenv("OFA_FIRST_DRIVER"), RTLD_NOW | RTLD_LOCAL), name);
}

static void describe(VkPhysicalDevice device, VkPhysicalDeviceProperties *properties) {
    first_describe(device, properties);
    strcpy(properties->deviceName, "Second GPU-1");
    properties->limits.maxComputeWorkGroupInvocations = 128;
}

static VkResult submit(VkQueue queue, uint32_t count, const void *infos, VkFence fence) {
    fclose(fopen(getenv("OFA_SECOND_RAN"), "w"));
    return first_submit(queue, count, infos, fence);
}

static void *device_function(void *device, const char *name) {
    void *found = first_device(device, name);
    if (strcmp(name, "vkQueueSubmit") != 0) return found;
    first_submit = (submit_function)found;
    return (void *)submit;
}

VkResult vk_icdNegotiateLoaderICDInterfaceVersion(uint32_t *version) {
    typedef VkResult (*negotiate_function)(uint32_t *);
    return ((negotiate_function)first_driver("vk_icdNegotiateLoaderICDInterfaceVersion"))(version);
}

void *vk_icdGetInstanceProcAddr(void *instance, const char *name) {
    void *found = ((lookup)first_driver("vk_icdGetInstanceProcAddr"))(instance, name);
    if (found == NULL) return NULL;
    if (strcmp(name, "vkGetPhysicalDeviceProperties") == 0) {
        first_describe = (describe_function)found;
        return (void *)describe;
    }
    if (strcmp(name, "vkGetDeviceProcAddr") == 0) {
        first_device = (lookup)found;
        return (void *)device_function;
    }
    return found;
}
