/* Stands before the real libvulkan.so.1 and counts what lives: created, and not destroyed yet.
 *   OFA_REAL_LOADER=/path/libvulkan.so.1 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../ofa_compile/runtime/vulkan_api.h"

typedef void *(*lookup)(void *, const char *);
typedef VkResult (*create_function)(void *, const void *, const void *, uint64_t *);
typedef VkResult (*create_pipelines_function)(void *, uint64_t, uint32_t, const void *, const void *,
                                              uint64_t *);
typedef void (*destroy_function)(void *, uint64_t, const void *);

/* Kind, and the functions that make one and end it. */
#define KINDS(X)                                                                                 \
    X(buffers, "vkCreateBuffer", "vkDestroyBuffer")                                              \
    X(allocations, "vkAllocateMemory", "vkFreeMemory")                                           \
    X(shaders, "vkCreateShaderModule", "vkDestroyShaderModule")                                  \
    X(set_layouts, "vkCreateDescriptorSetLayout", "vkDestroyDescriptorSetLayout")                \
    X(layouts, "vkCreatePipelineLayout", "vkDestroyPipelineLayout")                              \
    X(caches, "vkCreatePipelineCache", "vkDestroyPipelineCache")                                 \
    X(pools, "vkCreateDescriptorPool", "vkDestroyDescriptorPool")                                \
    X(queries, "vkCreateQueryPool", "vkDestroyQueryPool")                                        \
    X(pipelines, "vkCreateComputePipelines", "vkDestroyPipeline")

#define DEFINE(kind, creator, destroyer)                                                         \
    static int num_##kind;                                                                       \
    static create_function create_##kind;                                                        \
    static destroy_function destroy_##kind;                                                      \
    static VkResult count_##kind(void *device, const void *info, const void *how, uint64_t *out) { \
        VkResult result = create_##kind(device, info, how, out);                                 \
        if (result == 0) __atomic_fetch_add(&num_##kind, 1, __ATOMIC_RELAXED);                   \
        return result;                                                                           \
    }                                                                                            \
    static void discount_##kind(void *device, uint64_t handle, const void *how) {                \
        if (handle != 0) __atomic_fetch_sub(&num_##kind, 1, __ATOMIC_RELAXED);                   \
        destroy_##kind(device, handle, how);                                                     \
    }
KINDS(DEFINE)

/* The one that makes many at once; we ask for one. */
static VkResult count_pipeline(void *device, uint64_t cache, uint32_t count, const void *infos,
                               const void *how, uint64_t *out) {
    VkResult result = ((create_pipelines_function)(void *)create_pipelines)(device, cache, count,
                                                                            infos, how, out);
    if (result == 0) __atomic_fetch_add(&num_pipelines, 1, __ATOMIC_RELAXED);
    return result;
}

#define LIST(kind, creator, destroyer) length += sprintf(text + length, #kind " %d\n", num_##kind);

const char *ofa_living(void) {
    static char text[512];
    int length = 0;
    KINDS(LIST)
    return text;
}

static lookup real_device;

#define REPLACE(kind, creator, destroyer)                                                        \
    if (strcmp(name, creator) == 0) {                                                            \
        create_##kind = (create_function)found;                                                  \
        return strcmp(#kind, "pipelines") == 0 ? (void *)count_pipeline : (void *)count_##kind;  \
    }                                                                                            \
    if (strcmp(name, destroyer) == 0) {                                                          \
        destroy_##kind = (destroy_function)found;                                                \
        return (void *)discount_##kind;                                                          \
    }

static void *device_function(void *device, const char *name) {
    void *found = real_device(device, name);
    KINDS(REPLACE)
    return found;
}

void *vkGetInstanceProcAddr(void *instance, const char *name) {
    static lookup real_instance;
    if (real_instance == NULL)
        real_instance = (lookup)dlsym(dlopen(getenv("OFA_REAL_LOADER"), RTLD_NOW | RTLD_LOCAL),
                                      "vkGetInstanceProcAddr");
    void *found = real_instance(instance, name);
    if (strcmp(name, "vkGetDeviceProcAddr") != 0) return found;
    real_device = (lookup)found;
    return (void *)device_function;
}
