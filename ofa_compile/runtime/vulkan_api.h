/* The part of Vulkan 1.1's C interface that this run time uses, declared here so that building a
 * bundle needs no Vulkan headers. Layouts and numbers are those of the specification;
 * tests/runtime/test_vulkan_api.py compares them with the official header where it is installed. */
#ifndef OFA_VULKAN_API_H
#define OFA_VULKAN_API_H

#include <stddef.h>
#include <stdint.h>

/* Handles of objects that calls are dispatched on are pointers, all others 64 bits wide. */
typedef struct VkInstance_T *VkInstance;
typedef struct VkPhysicalDevice_T *VkPhysicalDevice;
typedef struct VkDevice_T *VkDevice;
typedef struct VkQueue_T *VkQueue;
typedef struct VkCommandBuffer_T *VkCommandBuffer;
typedef uint64_t VkBuffer, VkDeviceMemory, VkShaderModule, VkPipeline, VkPipelineLayout,
    VkPipelineCache, VkDescriptorSetLayout, VkDescriptorPool, VkDescriptorSet, VkCommandPool,
    VkQueryPool, VkFence;
typedef int32_t VkResult; /* negative: an error */
typedef uint32_t VkFlags, VkBool32;
typedef uint64_t VkDeviceSize;

enum {
    VK_SUCCESS = 0,
    VK_ERROR_OUT_OF_HOST_MEMORY = -1,
    VK_ERROR_OUT_OF_DEVICE_MEMORY = -2,
    VK_ERROR_DEVICE_LOST = -4,
    VK_ERROR_INCOMPATIBLE_DRIVER = -9
};

enum { /* VkStructureType */
    VK_STRUCTURE_TYPE_APPLICATION_INFO = 0,
    VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO = 1,
    VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO = 2,
    VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO = 3,
    VK_STRUCTURE_TYPE_SUBMIT_INFO = 4,
    VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO = 5,
    VK_STRUCTURE_TYPE_FENCE_CREATE_INFO = 8,
    VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO = 11,
    VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO = 12,
    VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO = 16,
    VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO = 17,
    VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO = 18,
    VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO = 29,
    VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO = 30,
    VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO = 32,
    VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO = 33,
    VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO = 34,
    VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET = 35,
    VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO = 39,
    VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO = 40,
    VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO = 42,
    VK_STRUCTURE_TYPE_MEMORY_BARRIER = 46,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2 = 1000059000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES = 1000082000,
    VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES = 1000083000
};

enum { /* bits and enumerations of one value each */
    VK_API_VERSION_1_1 = 1 << 22 | 1 << 12,
    VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU = 1,
    VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU = 2,
    VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU = 3,
    VK_PHYSICAL_DEVICE_TYPE_CPU = 4,
    VK_QUEUE_GRAPHICS_BIT = 1,
    VK_QUEUE_COMPUTE_BIT = 2,
    VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT = 1,
    VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT = 2,
    VK_MEMORY_PROPERTY_HOST_COHERENT_BIT = 4,
    VK_MEMORY_PROPERTY_HOST_CACHED_BIT = 8,
    VK_BUFFER_USAGE_TRANSFER_SRC_BIT = 1,
    VK_BUFFER_USAGE_TRANSFER_DST_BIT = 2,
    VK_BUFFER_USAGE_STORAGE_BUFFER_BIT = 0x20,
    VK_DESCRIPTOR_TYPE_STORAGE_BUFFER = 7,
    VK_SHADER_STAGE_COMPUTE_BIT = 0x20,
    VK_PIPELINE_BIND_POINT_COMPUTE = 1,
    VK_QUERY_TYPE_TIMESTAMP = 2,
    VK_QUERY_RESULT_64_BIT = 1,
    VK_QUERY_RESULT_WAIT_BIT = 2,
    VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT = 1,
    VK_PIPELINE_STAGE_TOP_OF_PIPE_BIT = 1,
    VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT = 0x800,
    VK_PIPELINE_STAGE_TRANSFER_BIT = 0x1000,
    VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT = 0x2000,
    VK_PIPELINE_STAGE_HOST_BIT = 0x4000,
    VK_ACCESS_SHADER_READ_BIT = 0x20,
    VK_ACCESS_SHADER_WRITE_BIT = 0x40,
    VK_ACCESS_TRANSFER_READ_BIT = 0x800,
    VK_ACCESS_TRANSFER_WRITE_BIT = 0x1000,
    VK_ACCESS_HOST_READ_BIT = 0x2000
};

typedef struct {
    uint32_t sType;
    const void *pNext;
    const char *pApplicationName;
    uint32_t applicationVersion;
    const char *pEngineName;
    uint32_t engineVersion, apiVersion;
} VkApplicationInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    const VkApplicationInfo *pApplicationInfo;
    uint32_t enabledLayerCount;
    const char *const *ppEnabledLayerNames;
    uint32_t enabledExtensionCount;
    const char *const *ppEnabledExtensionNames;
} VkInstanceCreateInfo;

/* Of the 106 limits only those that this run time asks for have a name. */
typedef struct {
    uint32_t unused_images[7];
    uint32_t maxStorageBufferRange;
    uint32_t unused_memory[3];
    VkDeviceSize unused_granularity[2];
    uint32_t unused_sets[3];
    uint32_t maxPerStageDescriptorStorageBuffers;
    uint32_t unused_stages[34];
    uint32_t maxComputeSharedMemorySize;
    uint32_t maxComputeWorkGroupCount[3];
    uint32_t maxComputeWorkGroupInvocations;
    uint32_t maxComputeWorkGroupSize[3];
    uint32_t unused_raster[13];
    size_t minMemoryMapAlignment;
    VkDeviceSize unused_texel_alignment, unused_uniform_alignment;
    VkDeviceSize minStorageBufferOffsetAlignment;
    uint32_t unused_sampling[21];
    VkBool32 timestampComputeAndGraphics;
    float timestampPeriod;
    uint32_t unused_drawing[12];
    VkDeviceSize unused_copy[2], nonCoherentAtomSize;
} VkPhysicalDeviceLimits;

typedef struct {
    uint32_t apiVersion, driverVersion, vendorID, deviceID, deviceType;
    char deviceName[256];
    uint8_t pipelineCacheUUID[16];
    VkPhysicalDeviceLimits limits;
    VkBool32 unused_sparse[5];
} VkPhysicalDeviceProperties;

typedef struct {
    VkFlags queueFlags;
    uint32_t queueCount, timestampValidBits, granularity[3];
} VkQueueFamilyProperties;

typedef struct {
    VkFlags propertyFlags;
    uint32_t heapIndex;
} VkMemoryType;

typedef struct {
    VkDeviceSize size;
    VkFlags flags;
} VkMemoryHeap;

typedef struct {
    uint32_t memoryTypeCount;
    VkMemoryType memoryTypes[32];
    uint32_t memoryHeapCount;
    VkMemoryHeap memoryHeaps[16];
} VkPhysicalDeviceMemoryProperties;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueFamilyIndex, queueCount;
    const float *pQueuePriorities;
} VkDeviceQueueCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueCreateInfoCount;
    const VkDeviceQueueCreateInfo *pQueueCreateInfos;
    uint32_t enabledLayerCount;
    const char *const *ppEnabledLayerNames;
    uint32_t enabledExtensionCount;
    const char *const *ppEnabledExtensionNames;
    const void *pEnabledFeatures;
} VkDeviceCreateInfo;

typedef struct {
    uint32_t unused_features[55];
} VkPhysicalDeviceFeatures;

typedef struct {
    uint32_t sType;
    void *pNext;
    VkPhysicalDeviceFeatures features;
} VkPhysicalDeviceFeatures2;

typedef struct {
    uint32_t sType;
    void *pNext;
    uint32_t storageBuffer16BitAccess;
    uint32_t uniformAndStorageBuffer16BitAccess;
    uint32_t storagePushConstant16;
    uint32_t storageInputOutput16;
} VkPhysicalDevice16BitStorageFeatures;

typedef struct {
    uint32_t sType;
    void *pNext;
    uint32_t shaderFloat16;
    uint32_t shaderInt8;
} VkPhysicalDeviceShaderFloat16Int8Features;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    VkDeviceSize size;
    VkFlags usage;
    uint32_t sharingMode, queueFamilyIndexCount;
    const uint32_t *pQueueFamilyIndices;
} VkBufferCreateInfo;

typedef struct {
    VkDeviceSize size, alignment;
    uint32_t memoryTypeBits;
} VkMemoryRequirements;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkDeviceSize allocationSize;
    uint32_t memoryTypeIndex;
} VkMemoryAllocateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    size_t codeSize;
    const uint32_t *pCode;
} VkShaderModuleCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    size_t initialDataSize;
    const void *pInitialData;
} VkPipelineCacheCreateInfo;

typedef struct {
    uint32_t binding, descriptorType, descriptorCount;
    VkFlags stageFlags;
    const void *pImmutableSamplers;
} VkDescriptorSetLayoutBinding;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t bindingCount;
    const VkDescriptorSetLayoutBinding *pBindings;
} VkDescriptorSetLayoutCreateInfo;

typedef struct {
    VkFlags stageFlags;
    uint32_t offset, size;
} VkPushConstantRange;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t setLayoutCount;
    const VkDescriptorSetLayout *pSetLayouts;
    uint32_t pushConstantRangeCount;
    const VkPushConstantRange *pPushConstantRanges;
} VkPipelineLayoutCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t stage;
    VkShaderModule module;
    const char *pName;
    const void *pSpecializationInfo;
} VkPipelineShaderStageCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    VkPipelineShaderStageCreateInfo stage;
    VkPipelineLayout layout;
    VkPipeline basePipelineHandle;
    int32_t basePipelineIndex;
} VkComputePipelineCreateInfo;

typedef struct {
    uint32_t type, descriptorCount;
} VkDescriptorPoolSize;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t maxSets, poolSizeCount;
    const VkDescriptorPoolSize *pPoolSizes;
} VkDescriptorPoolCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkDescriptorPool descriptorPool;
    uint32_t descriptorSetCount;
    const VkDescriptorSetLayout *pSetLayouts;
} VkDescriptorSetAllocateInfo;

typedef struct {
    VkBuffer buffer;
    VkDeviceSize offset, range;
} VkDescriptorBufferInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkDescriptorSet dstSet;
    uint32_t dstBinding, dstArrayElement, descriptorCount, descriptorType;
    const void *pImageInfo;
    const VkDescriptorBufferInfo *pBufferInfo;
    const void *pTexelBufferView;
} VkWriteDescriptorSet;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queueFamilyIndex;
} VkCommandPoolCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkCommandPool commandPool;
    uint32_t level, commandBufferCount;
} VkCommandBufferAllocateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    const void *pInheritanceInfo;
} VkCommandBufferBeginInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags srcAccessMask, dstAccessMask;
} VkMemoryBarrier;

typedef struct {
    VkDeviceSize srcOffset, dstOffset, size;
} VkBufferCopy;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
    uint32_t queryType, queryCount;
    VkFlags pipelineStatistics;
} VkQueryPoolCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    VkFlags flags;
} VkFenceCreateInfo;

typedef struct {
    uint32_t sType;
    const void *pNext;
    uint32_t waitSemaphoreCount;
    const uint64_t *pWaitSemaphores;
    const VkFlags *pWaitDstStageMask;
    uint32_t commandBufferCount;
    const VkCommandBuffer *pCommandBuffers;
    uint32_t signalSemaphoreCount;
    const uint64_t *pSignalSemaphores;
} VkSubmitInfo;

/* Functions: F(result, name without vk, parameters), by what they are looked up on. */
#define OFA_VULKAN_GLOBAL_FUNCTIONS(F)                                                           \
    F(VkResult, CreateInstance, (const VkInstanceCreateInfo *, const void *, VkInstance *))

#define OFA_VULKAN_INSTANCE_FUNCTIONS(F)                                                         \
    F(void, DestroyInstance, (VkInstance, const void *))                                         \
    F(VkResult, EnumeratePhysicalDevices, (VkInstance, uint32_t *, VkPhysicalDevice *))          \
    F(void, GetPhysicalDeviceProperties, (VkPhysicalDevice, VkPhysicalDeviceProperties *))       \
    F(void, GetPhysicalDeviceFeatures2, (VkPhysicalDevice, VkPhysicalDeviceFeatures2 *))         \
    F(void, GetPhysicalDeviceQueueFamilyProperties,                                              \
      (VkPhysicalDevice, uint32_t *, VkQueueFamilyProperties *))                                 \
    F(void, GetPhysicalDeviceMemoryProperties,                                                   \
      (VkPhysicalDevice, VkPhysicalDeviceMemoryProperties *))                                    \
    F(VkResult, CreateDevice,                                                                    \
      (VkPhysicalDevice, const VkDeviceCreateInfo *, const void *, VkDevice *))                  \
    F(void *, GetDeviceProcAddr, (VkDevice, const char *))

#define OFA_VULKAN_DEVICE_FUNCTIONS(F)                                                           \
    F(void, DestroyDevice, (VkDevice, const void *))                                             \
    F(void, GetDeviceQueue, (VkDevice, uint32_t, uint32_t, VkQueue *))                           \
    F(VkResult, DeviceWaitIdle, (VkDevice))                                                      \
    F(VkResult, CreateBuffer,                                                                    \
      (VkDevice, const VkBufferCreateInfo *, const void *, VkBuffer *))                          \
    F(void, DestroyBuffer, (VkDevice, VkBuffer, const void *))                                   \
    F(void, GetBufferMemoryRequirements, (VkDevice, VkBuffer, VkMemoryRequirements *))           \
    F(VkResult, AllocateMemory,                                                                  \
      (VkDevice, const VkMemoryAllocateInfo *, const void *, VkDeviceMemory *))                  \
    F(void, FreeMemory, (VkDevice, VkDeviceMemory, const void *))                                \
    F(VkResult, BindBufferMemory, (VkDevice, VkBuffer, VkDeviceMemory, VkDeviceSize))            \
    F(VkResult, MapMemory,                                                                       \
      (VkDevice, VkDeviceMemory, VkDeviceSize, VkDeviceSize, VkFlags, void **))                  \
    F(VkResult, CreateShaderModule,                                                              \
      (VkDevice, const VkShaderModuleCreateInfo *, const void *, VkShaderModule *))              \
    F(void, DestroyShaderModule, (VkDevice, VkShaderModule, const void *))                       \
    F(VkResult, CreatePipelineCache,                                                             \
      (VkDevice, const VkPipelineCacheCreateInfo *, const void *, VkPipelineCache *))            \
    F(void, DestroyPipelineCache, (VkDevice, VkPipelineCache, const void *))                     \
    F(VkResult, GetPipelineCacheData, (VkDevice, VkPipelineCache, size_t *, void *))             \
    F(VkResult, CreateDescriptorSetLayout,                                                       \
      (VkDevice, const VkDescriptorSetLayoutCreateInfo *, const void *,                          \
       VkDescriptorSetLayout *))                                                                 \
    F(void, DestroyDescriptorSetLayout, (VkDevice, VkDescriptorSetLayout, const void *))         \
    F(VkResult, CreatePipelineLayout,                                                            \
      (VkDevice, const VkPipelineLayoutCreateInfo *, const void *, VkPipelineLayout *))          \
    F(void, DestroyPipelineLayout, (VkDevice, VkPipelineLayout, const void *))                   \
    F(VkResult, CreateComputePipelines,                                                          \
      (VkDevice, VkPipelineCache, uint32_t, const VkComputePipelineCreateInfo *, const void *,   \
       VkPipeline *))                                                                            \
    F(void, DestroyPipeline, (VkDevice, VkPipeline, const void *))                               \
    F(VkResult, CreateDescriptorPool,                                                            \
      (VkDevice, const VkDescriptorPoolCreateInfo *, const void *, VkDescriptorPool *))          \
    F(void, DestroyDescriptorPool, (VkDevice, VkDescriptorPool, const void *))                   \
    F(VkResult, ResetDescriptorPool, (VkDevice, VkDescriptorPool, VkFlags))                      \
    F(VkResult, AllocateDescriptorSets,                                                          \
      (VkDevice, const VkDescriptorSetAllocateInfo *, VkDescriptorSet *))                        \
    F(void, UpdateDescriptorSets,                                                                \
      (VkDevice, uint32_t, const VkWriteDescriptorSet *, uint32_t, const void *))                \
    F(VkResult, CreateCommandPool,                                                               \
      (VkDevice, const VkCommandPoolCreateInfo *, const void *, VkCommandPool *))                \
    F(void, DestroyCommandPool, (VkDevice, VkCommandPool, const void *))                         \
    F(VkResult, ResetCommandPool, (VkDevice, VkCommandPool, VkFlags))                            \
    F(VkResult, AllocateCommandBuffers,                                                          \
      (VkDevice, const VkCommandBufferAllocateInfo *, VkCommandBuffer *))                        \
    F(void, FreeCommandBuffers, (VkDevice, VkCommandPool, uint32_t, const VkCommandBuffer *))    \
    F(VkResult, BeginCommandBuffer, (VkCommandBuffer, const VkCommandBufferBeginInfo *))         \
    F(VkResult, EndCommandBuffer, (VkCommandBuffer))                                             \
    F(void, CmdBindPipeline, (VkCommandBuffer, uint32_t, VkPipeline))                            \
    F(void, CmdBindDescriptorSets,                                                               \
      (VkCommandBuffer, uint32_t, VkPipelineLayout, uint32_t, uint32_t,                          \
       const VkDescriptorSet *, uint32_t, const uint32_t *))                                     \
    F(void, CmdPushConstants,                                                                    \
      (VkCommandBuffer, VkPipelineLayout, VkFlags, uint32_t, uint32_t, const void *))            \
    F(void, CmdDispatch, (VkCommandBuffer, uint32_t, uint32_t, uint32_t))                        \
    F(void, CmdPipelineBarrier,                                                                  \
      (VkCommandBuffer, VkFlags, VkFlags, VkFlags, uint32_t, const VkMemoryBarrier *, uint32_t,  \
       const void *, uint32_t, const void *))                                                    \
    F(void, CmdCopyBuffer,                                                                       \
      (VkCommandBuffer, VkBuffer, VkBuffer, uint32_t, const VkBufferCopy *))                     \
    F(void, CmdResetQueryPool, (VkCommandBuffer, VkQueryPool, uint32_t, uint32_t))               \
    F(void, CmdWriteTimestamp, (VkCommandBuffer, VkFlags, VkQueryPool, uint32_t))                \
    F(VkResult, CreateQueryPool,                                                                 \
      (VkDevice, const VkQueryPoolCreateInfo *, const void *, VkQueryPool *))                    \
    F(void, DestroyQueryPool, (VkDevice, VkQueryPool, const void *))                             \
    F(VkResult, GetQueryPoolResults,                                                             \
      (VkDevice, VkQueryPool, uint32_t, uint32_t, size_t, void *, VkDeviceSize, VkFlags))        \
    F(VkResult, CreateFence,                                                                     \
      (VkDevice, const VkFenceCreateInfo *, const void *, VkFence *))                            \
    F(void, DestroyFence, (VkDevice, VkFence, const void *))                                     \
    F(VkResult, ResetFences, (VkDevice, uint32_t, const VkFence *))                              \
    F(VkResult, WaitForFences, (VkDevice, uint32_t, const VkFence *, VkBool32, uint64_t))        \
    F(VkResult, QueueSubmit, (VkQueue, uint32_t, const VkSubmitInfo *, VkFence))

#define OFA_DECLARE(result, name, parameters) result(*name) parameters;
typedef struct {
    OFA_VULKAN_GLOBAL_FUNCTIONS(OFA_DECLARE)
    OFA_VULKAN_INSTANCE_FUNCTIONS(OFA_DECLARE)
    OFA_VULKAN_DEVICE_FUNCTIONS(OFA_DECLARE)
} vulkan_functions;
#undef OFA_DECLARE

#endif
