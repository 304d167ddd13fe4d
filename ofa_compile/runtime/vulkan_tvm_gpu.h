/* C++, part of vulkan_tvm.cc: one device, its memory, and what is recorded for it. */
#ifndef OFA_VULKAN_TVM_GPU_H
#define OFA_VULKAN_TVM_GPU_H

#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vulkan_tvm_memory.h"

extern "C" {
#include "vulkan_cache.h"
}

namespace ofa_vulkan {

using tvm::Device;
namespace ffi = tvm::ffi;
namespace runtime = tvm::runtime;

constexpr uint32_t kSetsPerPool = 256;
constexpr uint32_t kMaxBuffers = 32;
constexpr size_t kMaxStagingBytes = size_t(64) << 20;
constexpr VkFlags kWork = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
constexpr VkFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
constexpr VkFlags kReads = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;

/* Texts about bundles, where they do not fit users of TVM, are replaced. */
const char* Explain(int code) {
  switch (code) {
    case GPU_DEVICE_LOST:
      return gpu_explain(code,
                         "the Vulkan device was lost, by a hang or a reset, and all that was in its "
                         "memory; start this process again");
    case GPU_NO_HALVES:
      return "the Vulkan device does not compute in float16; choose another (OFA_VULKAN_DEVICE), or "
             "compile for float32";
    default: return vulkan_explain(code);
  }
}

void Check(int code) {
  if (code != 0) TVM_FFI_THROW(RuntimeError) << Explain(code);
}

/* A device and what is recorded for it but not yet submitted. */
class Gpu {
 public:
  /* TVM knows devices by number. Number 0, which is what its tuners take, is the one that
   * OFA_VULKAN_DEVICE names, as it is for bundles; otherwise numbers are the loader's. */
  explicit Gpu(int number) {
    const char* named = number == 0 ? getenv("OFA_VULKAN_DEVICE") : nullptr;
    bool is_named = named != nullptr && *named != '\0';
    std::string wanted = is_named ? named : std::to_string(number);
    int code = vulkan_open(&d, wanted.c_str(), true);
    if (code == GPU_NO_HALVES) code = vulkan_open(&d, wanted.c_str(), false);
    if (code == GPU_UNKNOWN_DEVICE && !is_named)
      TVM_FFI_THROW(RuntimeError) << "this machine has no Vulkan device " << number
                                  << "; vulkaninfo --summary lists those that it has";
    Check(code);
    Check(vulkan_allocate_commands(&d, &commands_));
  }

  std::recursive_mutex lock;
  vulkan_device d;

  Buffer* Allocate(size_t bytes, bool is_host) {
    Heap& heap = heaps_[is_host];
    Buffer* buffer = nullptr;
    int code = heap.Allocate(bytes, &buffer);
    if (code == GPU_OUT_OF_MEMORY) {
      Sync();
      for (Heap& each : heaps_) each.Trim();
      code = heap.Allocate(bytes, &buffer);
    }
    Check(code);
    return buffer;
  }

  /* Commands that use it run before any that are recorded later, so it may be used again. */
  void Free(Buffer* buffer) { heaps_[buffer->is_host].Free(buffer); }

  VkCommandBuffer Record() {
    if (!is_recording_) {
      Check(vulkan_begin(&d, commands_, VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT));
      is_recording_ = true;
    }
    return commands_;
  }

  /* Everything recorded so far happens before everything that follows. */
  void Barrier() {
    vulkan_barrier(&d, commands_, kWork, kWrites | kReads, kWork, kWrites | kReads);
  }

  void Copy(const Buffer* from, size_t from_offset, const Buffer* to, size_t to_offset,
            size_t bytes) {
    VkBufferCopy region{from->offset + from_offset, to->offset + to_offset, bytes};
    d.vk.CmdCopyBuffer(Record(), from->handle(), to->handle(), 1, &region);
    Barrier();
  }

  void Upload(const void* from, Buffer* to, size_t offset, size_t bytes) {
    Buffer* staging = Allocate(bytes, true);
    memcpy(staging->mapped(), from, bytes);
    Copy(staging, 0, to, offset, bytes);
    staging_.push_back(staging);  // the host must not write it again before it is read
    staged_bytes_ += bytes;
    if (staged_bytes_ > kMaxStagingBytes) Sync();
  }

  void Download(const Buffer* from, size_t offset, void* to, size_t bytes) {
    Buffer* staging = Allocate(bytes, true);
    Copy(from, offset, staging, 0, bytes);
    vulkan_barrier(&d, commands_, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT,
                   VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
    Sync();
    memcpy(to, staging->mapped(), bytes);
    Free(staging);
  }

  /* Submit what is recorded and wait for it. */
  void Sync() {
    if (!is_recording_) return;
    is_recording_ = false;
    int code = vulkan_end(&d, commands_);
    if (code == 0) code = vulkan_submit(&d, commands_);
    d.vk.ResetCommandPool(d.device, d.commands, 0);
    for (VkDescriptorPool pool : set_pools_) d.vk.ResetDescriptorPool(d.device, pool, 0);
    num_sets_ = 0;
    for (Buffer* buffer : staging_) Free(buffer);
    staging_.clear();
    staged_bytes_ = 0;
    Check(code);
  }

  VkDescriptorSet AllocateSet(VkDescriptorSetLayout layout) {
    size_t pool = num_sets_ / kSetsPerPool;
    if (pool == set_pools_.size()) {
      VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, kSetsPerPool * kMaxBuffers};
      VkDescriptorPoolCreateInfo info{};
      info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
      info.maxSets = kSetsPerPool;
      info.poolSizeCount = 1;
      info.pPoolSizes = &size;
      VkDescriptorPool created;
      Check(vulkan_check(d.vk.CreateDescriptorPool(d.device, &info, nullptr, &created),
                         "CreateDescriptorPool"));
      set_pools_.push_back(created);
    }
    VkDescriptorSetAllocateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
    info.descriptorPool = set_pools_[pool];
    info.descriptorSetCount = 1;
    info.pSetLayouts = &layout;
    VkDescriptorSet set;
    Check(vulkan_check(d.vk.AllocateDescriptorSets(d.device, &info, &set),
                       "AllocateDescriptorSets"));
    ++num_sets_;
    return set;
  }

 private:
  VkCommandBuffer commands_ = nullptr;
  bool is_recording_ = false;
  Heap heaps_[2] = {{&d, false}, {&d, true}};  // by whether the host sees it
  std::vector<Buffer*> staging_;
  size_t staged_bytes_ = 0;
  std::vector<VkDescriptorPool> set_pools_;
  size_t num_sets_ = 0;
};

using Guard = std::lock_guard<std::recursive_mutex>;

/* Return a device, opened at its first use; never closed, since modules may outlive everything. */
Gpu& GetGpu(int number) {
  static std::mutex lock;
  static auto* gpus = new std::map<int, std::unique_ptr<Gpu>>();
  std::lock_guard<std::mutex> guard(lock);
  auto& gpu = (*gpus)[number];
  if (gpu == nullptr) gpu = std::make_unique<Gpu>(number);
  return *gpu;
}

}  // namespace ofa_vulkan

#endif
