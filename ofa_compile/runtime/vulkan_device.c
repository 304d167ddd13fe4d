#define _POSIX_C_SOURCE 200809L

#include "vulkan_device.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#define MAX_DEVICES 32u
#define MAX_FAMILIES 32u
#define STAGING_BYTES ((size_t)8 << 20)

int vulkan_check(VkResult result, const char *call) {
    if (result >= 0) return 0;
    int code = GPU_FAILED;
    if (result == VK_ERROR_OUT_OF_HOST_MEMORY || result == VK_ERROR_OUT_OF_DEVICE_MEMORY)
        code = GPU_OUT_OF_MEMORY;
    if (result == VK_ERROR_DEVICE_LOST) code = GPU_DEVICE_LOST;
    return gpu_failed(code, "vk%s: %d", call, (int)result);
}

static const char *explain(int code) {
    switch (code) {
    case GPU_NO_DRIVER:
        return "no Vulkan here: libvulkan.so.1 cannot be loaded; install the Vulkan loader "
               "(Debian: libvulkan1) and your GPU's driver";
    case GPU_NO_DEVICE:
        return "Vulkan finds no device that computes with version 1.1 or later; install your "
               "GPU's driver (Debian: mesa-vulkan-drivers)";
    case GPU_UNKNOWN_DEVICE:
        return "OFA_VULKAN_DEVICE names no device of this machine; give a number or a part of a "
               "name that vulkaninfo --summary shows";
    case GPU_UNSUITABLE:
        return "the Vulkan device's limits are too small for this network; choose another device "
               "with OFA_VULKAN_DEVICE, or compile for a smaller batch or resolution";
    case GPU_OUT_OF_MEMORY:
        return "the Vulkan device is out of memory; close other programs that use it";
    case GPU_DEVICE_LOST:
        return "the Vulkan device was lost, by a fault or a reset; the next run opens it again";
    case GPU_HUNG:
        return "the Vulkan device does not answer; end this program; a run that needs longer may "
               "have it (OFA_GPU_TIMEOUT_S, in seconds)";
    case GPU_FAILED:
        return "the Vulkan driver failed; update your GPU's driver (Debian: mesa-vulkan-drivers), "
               "or choose another device with OFA_VULKAN_DEVICE";
    case GPU_NO_HALVES:
        return "the Vulkan device does not compute in float16; choose another (OFA_VULKAN_DEVICE), "
               "or compile with --precision fp32";
    case GPU_NO_TIMESTAMPS: return "the Vulkan device cannot time single kernels";
    default: return "unknown error";
    }
}

const char *vulkan_explain(int code) { return gpu_explain(code, explain(code)); }

/* Loader */

typedef void *(*find_function)(VkInstance, const char *);

static find_function find;

static void load_library(void) {
    static const char *const names[] = {"libvulkan.so.1", "libvulkan.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names && find == NULL; ++i) {
        /* Never closed: drivers do not all survive being unloaded. */
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (library == NULL) continue;
        void *symbol = dlsym(library, "vkGetInstanceProcAddr");
        memcpy(&find, &symbol, sizeof symbol);
    }
}

static int load_loader(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_library);
    return find == NULL ? GPU_NO_DRIVER : 0;
}

/* A void pointer does not convert to a function's in ISO C; its bytes do. */
#define OFA_LOAD(name, lookup)                                                                   \
    void *symbol = lookup;                                                                       \
    if (symbol == NULL) return gpu_failed(GPU_FAILED, "it lacks vk" #name);

#define OFA_LOAD_GLOBAL(result, name, parameters)                                                \
    {                                                                                            \
        OFA_LOAD(name, find(NULL, "vk" #name))                                                   \
        memcpy(&d->vk.name, &symbol, sizeof symbol);                                             \
    }
#define OFA_LOAD_INSTANCE(result, name, parameters)                                              \
    {                                                                                            \
        OFA_LOAD(name, find(d->instance, "vk" #name))                                            \
        memcpy(&d->vk.name, &symbol, sizeof symbol);                                             \
    }
#define OFA_LOAD_DEVICE(result, name, parameters)                                                \
    {                                                                                            \
        OFA_LOAD(name, d->vk.GetDeviceProcAddr(d->device, "vk" #name))                           \
        memcpy(&d->vk.name, &symbol, sizeof symbol);                                             \
    }

static int load_global(vulkan_device *d) {
    OFA_VULKAN_GLOBAL_FUNCTIONS(OFA_LOAD_GLOBAL)
    return 0;
}

static int load_instance(vulkan_device *d) {
    OFA_VULKAN_INSTANCE_FUNCTIONS(OFA_LOAD_INSTANCE)
    return 0;
}

static int load_device(vulkan_device *d) {
    OFA_VULKAN_DEVICE_FUNCTIONS(OFA_LOAD_DEVICE)
    return 0;
}

static int create_instance(vulkan_device *d) {
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                     .pApplicationName = "ofa-compile",
                                     .apiVersion = VK_API_VERSION_1_1};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                 .pApplicationInfo = &application};
    VkResult result = d->vk.CreateInstance(&info, NULL, &d->instance);
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER) return GPU_NO_DEVICE;
    int code = vulkan_check(result, "CreateInstance");
    return code != 0 ? code : load_instance(d);
}

/* Choice of a device */

static int rank(uint32_t type) {
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: return 4;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return 3;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: return 2;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: return 1;
    default: return 0;
    }
}

/* Find a queue that computes; one that cannot draw as well is likely to be idle. */
static bool find_queue(vulkan_device *d, VkPhysicalDevice physical, uint32_t *family,
                       uint32_t *timestamp_bits) {
    VkQueueFamilyProperties families[MAX_FAMILIES];
    uint32_t count = MAX_FAMILIES;
    d->vk.GetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    bool is_found = false;
    for (uint32_t i = 0; i < count; ++i) {
        if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) continue;
        bool draws = (families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT) != 0;
        if (is_found && draws) continue;
        *family = i;
        *timestamp_bits = families[i].timestampValidBits;
        is_found = true;
        if (!draws) break;
    }
    return is_found;
}

/* What float16 takes, chained so that it can be asked for or switched on. */
typedef struct {
    VkPhysicalDevice16BitStorageFeatures storage;
    VkPhysicalDeviceShaderFloat16Int8Features arithmetic;
} half_features;

static void chain_halves(half_features *halves) {
    memset(halves, 0, sizeof *halves);
    halves->storage.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
    halves->storage.pNext = &halves->arithmetic;
    halves->arithmetic.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
}

static bool has_halves(vulkan_device *d, VkPhysicalDevice physical) {
    half_features halves;
    chain_halves(&halves);
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                          .pNext = &halves.storage};
    d->vk.GetPhysicalDeviceFeatures2(physical, &features);
    return halves.storage.storageBuffer16BitAccess && halves.arithmetic.shaderFloat16;
}

static int choose_device(vulkan_device *d, const char *wanted) {
    VkPhysicalDevice devices[MAX_DEVICES];
    uint32_t count = MAX_DEVICES;
    VkResult result = d->vk.EnumeratePhysicalDevices(d->instance, &count, devices);
    int code = vulkan_check(result, "EnumeratePhysicalDevices");
    if (code != 0) return count == 0 ? GPU_NO_DEVICE : code;
    int best = -1;
    bool lacks_halves = false;
    for (uint32_t i = 0; i < count; ++i) {
        VkPhysicalDeviceProperties properties;
        uint32_t family, bits;
        d->vk.GetPhysicalDeviceProperties(devices[i], &properties);
        if (properties.apiVersion < VK_API_VERSION_1_1) continue;
        if (!gpu_is_wanted(wanted, i, properties.deviceName)) continue;
        if (rank(properties.deviceType) <= best) continue;
        if (!find_queue(d, devices[i], &family, &bits)) continue;
        if (d->has_halves && !has_halves(d, devices[i])) {
            lacks_halves = true;
            continue;
        }
        best = rank(properties.deviceType);
        d->physical = devices[i];
        d->properties = properties;
        d->queue_family = family;
        d->timestamp_bits = bits;
    }
    if (best >= 0) return 0;
    if (lacks_halves) return GPU_NO_HALVES;
    return count == 0 || wanted == NULL || *wanted == '\0' ? GPU_NO_DEVICE
                                                           : GPU_UNKNOWN_DEVICE;
}

static int create_device(vulkan_device *d) {
    float priority = 1.0f;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = d->queue_family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue};
    static const char *const extensions[] = {"VK_KHR_shader_float16_int8"};
    half_features halves;
    chain_halves(&halves);
    halves.storage.storageBuffer16BitAccess = halves.arithmetic.shaderFloat16 = 1;
    if (d->has_halves) {
        info.pNext = &halves.storage;
        info.enabledExtensionCount = 1;
        info.ppEnabledExtensionNames = extensions;
    }
    d->vk.GetPhysicalDeviceMemoryProperties(d->physical, &d->memory);
    VkResult result = d->vk.CreateDevice(d->physical, &info, NULL, &d->device);
    int code = vulkan_check(result, "CreateDevice");
    if (code == 0) code = load_device(d);
    if (code != 0) return code;
    d->vk.GetDeviceQueue(d->device, d->queue_family, 0, &d->queue);
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                    .queueFamilyIndex = d->queue_family};
    result = d->vk.CreateCommandPool(d->device, &pool, NULL, &d->commands);
    code = vulkan_check(result, "CreateCommandPool");
    if (code != 0) return code;
    VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    return vulkan_check(d->vk.CreateFence(d->device, &fence, NULL, &d->fence), "CreateFence");
}

int vulkan_open(vulkan_device *d, const char *wanted, bool needs_halves) {
    memset(d, 0, sizeof *d);
    d->has_halves = needs_halves;
    gpu_forget_failure();
    int code = load_loader();
    if (code == 0) code = load_global(d);
    if (code == 0) code = create_instance(d);
    if (code == 0) code = choose_device(d, wanted);
    if (code == 0) code = create_device(d);
    if (code != 0) vulkan_close(d);
    return code;
}

void vulkan_close(vulkan_device *d) {
    if (d->device != NULL && d->vk.DestroyDevice != NULL) {
        if (d->fence != 0) d->vk.DestroyFence(d->device, d->fence, NULL);
        if (d->commands != 0) d->vk.DestroyCommandPool(d->device, d->commands, NULL);
        d->vk.DestroyDevice(d->device, NULL);
    }
    if (d->instance != NULL && d->vk.DestroyInstance != NULL)
        d->vk.DestroyInstance(d->instance, NULL);
    memset(d, 0, sizeof *d);
}

/* Memory */

static int find_memory(const vulkan_device *d, uint32_t allowed, VkFlags wanted) {
    for (uint32_t i = 0; i < d->memory.memoryTypeCount; ++i)
        if ((allowed >> i & 1u) != 0 &&
            (d->memory.memoryTypes[i].propertyFlags & wanted) == wanted)
            return (int)i;
    return -1;
}

static int choose_memory(const vulkan_device *d, uint32_t allowed, bool is_host_visible) {
    const VkFlags host =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    /* The host reads results, which is slow from memory that it does not cache. */
    int type = find_memory(d, allowed,
                           is_host_visible ? host | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
                                           : VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
    return type >= 0 ? type : find_memory(d, allowed, is_host_visible ? host : 0);
}

static int allocate_memory(vulkan_device *d, bool is_host_visible, vulkan_buffer *buffer) {
    VkMemoryRequirements needs;
    d->vk.GetBufferMemoryRequirements(d->device, buffer->buffer, &needs);
    int type = choose_memory(d, needs.memoryTypeBits, is_host_visible);
    if (type < 0) return GPU_UNSUITABLE;
    VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                 .allocationSize = needs.size,
                                 .memoryTypeIndex = (uint32_t)type};
    VkResult result = d->vk.AllocateMemory(d->device, &info, NULL, &buffer->memory);
    int code = vulkan_check(result, "AllocateMemory");
    if (code != 0) return code;
    result = d->vk.BindBufferMemory(d->device, buffer->buffer, buffer->memory, 0);
    code = vulkan_check(result, "BindBufferMemory");
    if (code != 0 || !is_host_visible) return code;
    result = d->vk.MapMemory(d->device, buffer->memory, 0, needs.size, 0, &buffer->mapped);
    return vulkan_check(result, "MapMemory");
}

int vulkan_create_buffer(vulkan_device *d, VkDeviceSize bytes, bool is_host_visible,
                         vulkan_buffer *buffer) {
    memset(buffer, 0, sizeof *buffer);
    VkFlags usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    if (!is_host_visible) usage |= VK_BUFFER_USAGE_STORAGE_BUFFER_BIT;
    VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = bytes, .usage = usage};
    VkResult result = d->vk.CreateBuffer(d->device, &info, NULL, &buffer->buffer);
    int code = vulkan_check(result, "CreateBuffer");
    if (code == 0) code = allocate_memory(d, is_host_visible, buffer);
    if (code != 0) vulkan_destroy_buffer(d, buffer);
    return code;
}

void vulkan_destroy_buffer(vulkan_device *d, vulkan_buffer *buffer) {
    if (buffer->buffer != 0) d->vk.DestroyBuffer(d->device, buffer->buffer, NULL);
    if (buffer->memory != 0) d->vk.FreeMemory(d->device, buffer->memory, NULL);
    memset(buffer, 0, sizeof *buffer);
}

static int upload_piece(vulkan_device *d, const vulkan_buffer *from, const vulkan_buffer *to,
                        size_t offset, size_t bytes) {
    VkCommandBuffer commands;
    int code = vulkan_allocate_commands(d, &commands);
    if (code != 0) return code;
    code = vulkan_begin(d, commands, VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT);
    if (code == 0) {
        VkBufferCopy copy = {.dstOffset = offset, .size = bytes};
        d->vk.CmdCopyBuffer(commands, from->buffer, to->buffer, 1, &copy);
        vulkan_barrier(d, commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                       VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                       VK_ACCESS_SHADER_READ_BIT);
        code = vulkan_end(d, commands);
    }
    if (code == 0) code = vulkan_submit(d, commands);
    d->vk.FreeCommandBuffers(d->device, d->commands, 1, &commands);
    return code;
}

int vulkan_upload(vulkan_device *d, const vulkan_buffer *to, const void *from, size_t bytes) {
    vulkan_buffer staging;
    size_t most = bytes < STAGING_BYTES ? bytes : STAGING_BYTES;
    int code = vulkan_create_buffer(d, most, true, &staging);
    if (code != 0) return code;
    for (size_t offset = 0; code == 0 && offset < bytes; offset += most) {
        size_t piece = bytes - offset < most ? bytes - offset : most;
        memcpy(staging.mapped, (const unsigned char *)from + offset, piece);
        code = upload_piece(d, &staging, to, offset, piece);
    }
    vulkan_destroy_buffer(d, &staging);
    return code;
}

/* Commands */

int vulkan_allocate_commands(vulkan_device *d, VkCommandBuffer *commands) {
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = d->commands,
                                        .commandBufferCount = 1};
    VkResult result = d->vk.AllocateCommandBuffers(d->device, &info, commands);
    return vulkan_check(result, "AllocateCommandBuffers");
}

int vulkan_begin(vulkan_device *d, VkCommandBuffer commands, VkFlags usage) {
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                     .flags = usage};
    return vulkan_check(d->vk.BeginCommandBuffer(commands, &info), "BeginCommandBuffer");
}

int vulkan_end(vulkan_device *d, VkCommandBuffer commands) {
    return vulkan_check(d->vk.EndCommandBuffer(commands), "EndCommandBuffer");
}

void vulkan_barrier(vulkan_device *d, VkCommandBuffer commands, VkFlags from_stage,
                    VkFlags from_access, VkFlags to_stage, VkFlags to_access) {
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = from_access,
                               .dstAccessMask = to_access};
    d->vk.CmdPipelineBarrier(commands, from_stage, to_stage, 0, 1, &barrier, 0, NULL, 0, NULL);
}

int vulkan_submit(vulkan_device *d, VkCommandBuffer commands) {
    int code = vulkan_check(d->vk.ResetFences(d->device, 1, &d->fence), "ResetFences");
    if (code != 0) return code;
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                         .commandBufferCount = 1,
                         .pCommandBuffers = &commands};
    code = vulkan_check(d->vk.QueueSubmit(d->queue, 1, &info, d->fence), "QueueSubmit");
    if (code != 0) return code;
    double patience = gpu_patience_ms();
    VkResult result = d->vk.WaitForFences(d->device, 1, &d->fence, 1, (uint64_t)(1e6 * patience));
    if (result > 0) /* VK_TIMEOUT */
        return gpu_failed(GPU_HUNG, "no answer for %.3g s", patience / 1e3);
    return vulkan_check(result, "WaitForFences");
}
