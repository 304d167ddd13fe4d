/* C++, part of vulkan_tvm.cc: one device, its memory, and what is recorded for it. */
#ifndef OFA_VULKAN_TVM_GPU_H
#define OFA_VULKAN_TVM_GPU_H

#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>

#include <pthread.h>

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

constexpr uint32_t kMaxBuffers = 32;
/* A submission ends here, so that no loop of launches fills the memory, nor one submission takes as
 * long as a device that hangs. An inference has some hundred launches. */
constexpr uint32_t kMaxLaunches = 1024;
constexpr uint32_t kSetsPerPool = 256;
constexpr size_t kMaxStagingBytes = size_t(64) << 20;
constexpr VkFlags kWork = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
constexpr VkFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
constexpr VkFlags kReads = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;

/* Texts about bundles, where they do not fit users of TVM, are replaced. */
const char* Explain(int code) {
  switch (code) {
    case GPU_DEVICE_LOST:
      return gpu_explain(code,
                         "the Vulkan device was lost, by a fault or a reset, and all that was in its "
                         "memory; start this process again");
    case GPU_UNSUITABLE:
      return gpu_explain(code,
                         "the Vulkan device's limits are too small for this kernel; choose another "
                         "device, or compile for smaller tensors");
    case GPU_NO_HALVES:
      return "the Vulkan device does not compute in float16; choose another (OFA_VULKAN_DEVICE), or "
             "compile for float32";
    default: return vulkan_explain(code);
  }
}

void Check(int code) {
  if (code != 0) TVM_FFI_THROW(RuntimeError) << Explain(code);
}

/* Refuse what no call to the driver has to do with, whatever the last one that failed was. */
[[noreturn]] void Refuse(int code) {
  gpu_forget_failure();
  TVM_FFI_THROW(RuntimeError) << Explain(code);
}

/* How many forks lie between this process and the one that has loaded this library. */
int num_forks = 0;

/* A device and what is recorded for it but not yet submitted. */
class Gpu {
 public:
  /* TVM knows devices by number. Number 0, which is what its tuners take, is the one that
   * OFA_VULKAN_DEVICE names, as it is for bundles; otherwise numbers are the loader's. */
  explicit Gpu(int number) {
    const char* named = number == 0 ? getenv("OFA_VULKAN_DEVICE") : nullptr;
    bool is_named = named != nullptr && *named != '\0';
    std::string wanted = is_named ? named : std::to_string(number);
    int code = number < 0 ? GPU_UNKNOWN_DEVICE : vulkan_open(&d, wanted.c_str(), true);
    if (code == GPU_NO_HALVES) code = vulkan_open(&d, wanted.c_str(), false);
    if (code == GPU_UNKNOWN_DEVICE && !is_named)
      TVM_FFI_THROW(RuntimeError) << "this machine has no Vulkan device " << number
                                  << "; vulkaninfo --summary lists those that it has";
    Check(code);
    code = vulkan_allocate_commands(&d, &commands_);
    if (code != 0) vulkan_close(&d);
    Check(code);
  }

  std::recursive_mutex lock;
  vulkan_device d;

  /* Whether this process has opened it. A forked child has the memory of its parent, but none of the
   * driver's threads. */
  bool IsOurs() const { return num_forks_ == num_forks; }

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
    CheckHealth();
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
    if (from == to && from_offset == to_offset) return;
    VkBufferCopy region{from->offset + from_offset, to->offset + to_offset, bytes};
    d.vk.CmdCopyBuffer(Record(), from->handle(), to->handle(), 1, &region);
    Barrier();
  }

  void Upload(const char* from, Buffer* to, size_t offset, size_t bytes) {
    while (bytes > 0) {
      size_t piece = std::min(bytes, kMaxStagingBytes);
      /* The host must not write it again before it is read. */
      staging_.push_back(Allocate(piece, true));
      memcpy(staging_.back()->mapped(), from, piece);
      Copy(staging_.back(), 0, to, offset, piece);
      staged_bytes_ += piece;
      if (staged_bytes_ >= kMaxStagingBytes) Sync();
      from += piece, offset += piece, bytes -= piece;
    }
  }

  void Download(const Buffer* from, size_t offset, char* to, size_t bytes) {
    while (bytes > 0) {
      size_t piece = std::min(bytes, kMaxStagingBytes);
      Buffer* staging = Allocate(piece, true);
      const char* result = staging->mapped();
      staging_.push_back(staging);
      Copy(from, offset, staging, 0, piece);
      vulkan_barrier(&d, commands_, VK_PIPELINE_STAGE_TRANSFER_BIT,
                     VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_HOST_BIT,
                     VK_ACCESS_HOST_READ_BIT);
      Sync();
      /* The piece is given back already, but nobody writes it while the caller locks the device. */
      memcpy(to, result, piece);
      to += piece, offset += piece, bytes -= piece;
    }
  }

  /* Take note of a launch that has been recorded. */
  void CountLaunch() {
    if (++num_launches_ == kMaxLaunches) Sync();
  }

  /* Submit what is recorded and wait for it. */
  void Sync() {
    CheckHealth();
    if (!is_recording_) return;
    is_recording_ = false;
    int code = vulkan_end(&d, commands_);
    if (code == 0) code = vulkan_submit(&d, commands_);
    if (code == 0)
      code = vulkan_check(d.vk.ResetCommandPool(d.device, d.commands, 0), "ResetCommandPool");
    if (code != 0) {
      failure_ = Explain(code);
      if (code != GPU_DEVICE_LOST) failure_ += "; what was to run is lost: start this process again";
      CheckHealth();
    }
    for (VkDescriptorPool pool : set_pools_) d.vk.ResetDescriptorPool(d.device, pool, 0);
    num_sets_ = num_launches_ = 0;
    for (Buffer* buffer : staging_) Free(buffer);
    staging_.clear();
    staged_bytes_ = 0;
  }

  /* Finish what may use something, and say whether that may be destroyed. Never throws. */
  bool Finish() noexcept {
    if (!IsOurs()) return false;
    try {
      Sync();
    } catch (const std::exception&) {
      return false;  // after a hang nobody knows what the device still uses
    }
    return true;
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
  /* After a submission that failed no tensor holds what it should, and nobody but one thread was told:
   * whoever asks for anything later is told as well. */
  void CheckHealth() const {
    if (!failure_.empty()) TVM_FFI_THROW(RuntimeError) << failure_;
  }

  const int num_forks_ = num_forks;
  VkCommandBuffer commands_ = nullptr;
  bool is_recording_ = false;
  std::string failure_;
  Heap heaps_[2] = {{&d, false}, {&d, true}};  // by whether the host sees it
  std::vector<Buffer*> staging_;
  size_t staged_bytes_ = 0;
  /* A set for each launch of a submission; all are given back at its end. */
  std::vector<VkDescriptorPool> set_pools_;
  size_t num_sets_ = 0, num_launches_ = 0;
};

using Guard = std::lock_guard<std::recursive_mutex>;

/* Return a device, opened at its first use; never closed, since modules may outlive everything. */
Gpu& GetGpu(int number) {
  static std::mutex lock;
  static auto* gpus = new std::map<int, std::unique_ptr<Gpu>>();
  static int noted = pthread_atfork(nullptr, nullptr, [] { ++num_forks; });
  (void)noted;
  std::lock_guard<std::mutex> guard(lock);
  auto& gpu = (*gpus)[number];
  if (gpu == nullptr) gpu = std::make_unique<Gpu>(number);
  if (!gpu->IsOurs())
    TVM_FFI_THROW(RuntimeError) << "Vulkan device " << number
                                << " is open in the process that this one was forked from, and "
                                   "cannot be used here; start processes by spawning";
  return *gpu;
}

/* The device that this host thread works on: TVM's host code says it before each launch. */
int& ActiveDevice() {
  static thread_local int number = 0;
  return number;
}

}  // namespace ofa_vulkan

#endif
