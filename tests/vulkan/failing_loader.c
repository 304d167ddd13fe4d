/* Stands before the real libvulkan.so.1: one function of the driver fails as the environment says.
 *   OFA_FAILING_CALL=vkQueueSubmit OFA_FAILING_RESULT=-4 OFA_REAL_LOADER=/path/libvulkan.so.1
 * With OFA_FAILING_AFTER=2 it does its work twice first; with OFA_FAILING_TIMES=1 it fails only once.
 * vkGetPhysicalDeviceProperties works, but the result is the most bytes that a buffer may have. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "../../ofa_compile/runtime/vulkan_api.h"

typedef void *(*lookup)(void *, const char *);

static lookup real_instance, real_device;

static int (*real_call)(void *, void *, void *, void *, void *, void *);
static int num_calls;

/* Called with whatever arguments the function has; C's conventions here let it ignore them. */
static int fail(void *a, void *b, void *c, void *d, void *e, void *f) {
    const char *after = getenv("OFA_FAILING_AFTER"), *times = getenv("OFA_FAILING_TIMES");
    int number = num_calls++ - (after == NULL ? 0 : atoi(after));
    if (number < 0 || (times != NULL && number >= atoi(times))) return real_call(a, b, c, d, e, f);
    return atoi(getenv("OFA_FAILING_RESULT"));
}

static void limit(VkPhysicalDevice device, VkPhysicalDeviceProperties *properties) {
    ((void (*)(VkPhysicalDevice, VkPhysicalDeviceProperties *))real_call)(device, properties);
    properties->limits.maxStorageBufferRange = (uint32_t)atoi(getenv("OFA_FAILING_RESULT"));
}

static void *device_function(void *device, const char *name) {
    void *found = real_device(device, name);
    if (strcmp(name, getenv("OFA_FAILING_CALL")) != 0) return found;
    real_call = (int (*)(void *, void *, void *, void *, void *, void *))found;
    return (void *)fail;
}

void *vkGetInstanceProcAddr(void *instance, const char *name) {
    if (real_instance == NULL)
        real_instance = (lookup)dlsym(dlopen(getenv("OFA_REAL_LOADER"), RTLD_NOW | RTLD_LOCAL),
                                      "vkGetInstanceProcAddr");
    void *found = real_instance(instance, name);
    if (strcmp(name, getenv("OFA_FAILING_CALL")) == 0) {
        if (strcmp(name, "vkGetPhysicalDeviceProperties") != 0) return (void *)fail;
        real_call = (int (*)(void *, void *, void *, void *, void *, void *))found;
        return (void *)limit;
    }
    if (strcmp(name, "vkGetDeviceProcAddr") != 0) return found;
    real_device = (lookup)found;
    return (void *)device_function;
}
