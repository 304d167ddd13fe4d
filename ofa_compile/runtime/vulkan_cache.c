#define _POSIX_C_SOURCE 200809L

#include "vulkan_cache.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BYTES ((long)256 << 20)

uint64_t vulkan_hash(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *values = data;
    for (size_t i = 0; i < bytes; ++i) hash = (hash ^ values[i]) * UINT64_C(0x100000001b3);
    return hash;
}

/* What tells networks and drivers apart. */
static uint64_t identity(const vulkan_device *d, const char *network) {
    const VkPhysicalDeviceProperties *p = &d->properties;
    uint64_t hash = vulkan_hash(VULKAN_HASH, network, strlen(network));
    hash = vulkan_hash(hash, &p->vendorID, sizeof p->vendorID);
    hash = vulkan_hash(hash, &p->deviceID, sizeof p->deviceID);
    hash = vulkan_hash(hash, &p->driverVersion, sizeof p->driverVersion);
    return vulkan_hash(hash, p->pipelineCacheUUID, sizeof p->pipelineCacheUUID);
}

static bool file_name(const vulkan_device *d, const char *network, char *path, size_t size) {
    const char *folder = getenv("OFA_VULKAN_CACHE");
    if (folder == NULL || *folder == '\0') return false;
    int length = snprintf(path, size, "%s/%016" PRIx64 ".pipelines", folder,
                          identity(d, network));
    return length > 0 && (size_t)length < size;
}

/* A file starts with its own checksum: drivers trust what they are given. */
static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) return NULL;
    uint64_t sum = 0;
    void *data = NULL;
    long size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) - (long)sizeof sum : 0;
    if (size > 0 && size <= MAX_BYTES && fseek(file, 0, SEEK_SET) == 0 &&
        fread(&sum, sizeof sum, 1, file) == 1)
        data = malloc((size_t)size);
    bool is_good = data != NULL && fread(data, (size_t)size, 1, file) == 1 &&
                   vulkan_hash(0, data, (size_t)size) == sum;
    fclose(file);
    if (is_good) {
        *bytes = (size_t)size;
        return data;
    }
    free(data);
    return NULL;
}

int vulkan_cache_load(vulkan_device *d, const char *network, VkPipelineCache *cache) {
    char path[4096];
    size_t bytes = 0;
    void *data = NULL;
    if (file_name(d, network, path, sizeof path)) {
        data = read_file(path, &bytes);
        if (data == NULL) remove(path); /* a damaged one would never be replaced */
    }
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
                                      .initialDataSize = bytes,
                                      .pInitialData = data};
    VkResult result = d->vk.CreatePipelineCache(d->device, &info, NULL, cache);
    free(data);
    return vulkan_check(result, "CreatePipelineCache");
}

static void write_file(const char *path, const void *data, size_t bytes) {
    char temporary[4200];
    snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid());
    FILE *file = fopen(temporary, "wb");
    if (file == NULL) return;
    uint64_t sum = vulkan_hash(0, data, bytes);
    bool is_good = fwrite(&sum, sizeof sum, 1, file) == 1 && fwrite(data, bytes, 1, file) == 1;
    is_good = fclose(file) == 0 && is_good;
    if (!is_good || rename(temporary, path) != 0) remove(temporary);
}

void vulkan_cache_store(vulkan_device *d, const char *network, VkPipelineCache cache) {
    char path[4096];
    if (!file_name(d, network, path, sizeof path) || access(path, R_OK) == 0) return;
    size_t bytes = 0;
    if (d->vk.GetPipelineCacheData(d->device, cache, &bytes, NULL) != VK_SUCCESS || bytes == 0)
        return;
    void *data = malloc(bytes);
    if (data != NULL && d->vk.GetPipelineCacheData(d->device, cache, &bytes, data) == VK_SUCCESS)
        write_file(path, data, bytes);
    free(data);
}
