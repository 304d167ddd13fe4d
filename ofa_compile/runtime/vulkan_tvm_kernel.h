/* C++, part of vulkan_tvm.cc: shaders, their pipelines, and launches. */
#ifndef OFA_VULKAN_TVM_KERNEL_H
#define OFA_VULKAN_TVM_KERNEL_H

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "vulkan_tvm_gpu.h"

namespace ofa_vulkan {

constexpr uint32_t kMaxScalarBytes = 128;  // of push constants, on every device

using Extents = std::array<uint32_t, 3>;  // in x, y, z

enum ParameterKind : uint32_t { kBuffer = 0, kInt = 1, kUnsigned = 2, kFloat = 3 };

struct Pipeline {
  VkDescriptorSetLayout set_layout = 0;
  VkPipelineLayout layout = 0;
  VkPipeline pipeline = 0;

  void Destroy(const vulkan_device& d) {
    d.vk.DestroyPipeline(d.device, pipeline, nullptr);
    d.vk.DestroyPipelineLayout(d.device, layout, nullptr);
    d.vk.DestroyDescriptorSetLayout(d.device, set_layout, nullptr);
    *this = {};
  }
};

/* What there is of something on each device that has it. The lock of one device does not keep threads
 * of another out of the map; what it holds is guarded by its device's lock. */
template <typename T>
class PerGpu {
 public:
  T& Of(Gpu& gpu) {
    std::lock_guard<std::mutex> guard(lock_);
    return entries_[&gpu];
  }

  /* Call a function with all that may be destroyed. */
  template <typename F>
  void Clear(F destroy) {
    for (auto& [gpu, entry] : entries_) {
      if (!gpu->IsOurs()) continue;  // nor is its lock
      Guard guard(gpu->lock);
      if (gpu->Finish()) destroy(gpu->d, &entry);
    }
  }

 private:
  std::mutex lock_;
  std::map<Gpu*, T> entries_;
};

/* The compiled pipelines of a module, in the files of vulkan_cache.h where a folder is named for
 * them. */
class PipelineCaches {
 public:
  PipelineCaches(const std::string& module, size_t num_kernels) : num_kernels_(num_kernels) {
    name_ = "tvm-" + std::to_string(vulkan_hash(VULKAN_HASH, module.data(), module.size()));
  }

  ~PipelineCaches() {
    entries_.Clear([](const vulkan_device& d, Entry* entry) {
      d.vk.DestroyPipelineCache(d.device, entry->cache, nullptr);
    });
  }

  /* The caller holds the device's lock, here and below. */
  VkPipelineCache Of(Gpu& gpu) {
    Entry& entry = entries_.Of(gpu);
    if (entry.cache == 0) Check(vulkan_cache_load(&gpu.d, name_.c_str(), &entry.cache));
    return entry.cache;
  }

  /* Take note of a pipeline; the file is written when all of the module are there. */
  void Count(Gpu& gpu) {
    Entry& entry = entries_.Of(gpu);
    if (++entry.num_pipelines == num_kernels_)
      vulkan_cache_store(&gpu.d, name_.c_str(), entry.cache);
  }

 private:
  struct Entry {
    VkPipelineCache cache = 0;
    size_t num_pipelines = 0;
  };
  std::string name_;
  size_t num_kernels_;
  PerGpu<Entry> entries_;
};

/* One shader, and its pipeline on every device that has run it. */
class Kernel {
 public:
  std::shared_ptr<PipelineCaches> caches;
  std::string spirv;
  std::vector<uint32_t> parameters;  // ParameterKind
  std::vector<uint32_t> launch;      // 0-2: workgroups in x, y, z; 3-5: threads; else ignored
  bool is_folded = false;            // whether a grid that is too wide may go on in z
  bool needs_halves = false;         // whether it computes in float16

  ~Kernel() {
    pipelines_.Clear([](const vulkan_device& d, Pipeline* p) { p->Destroy(d); });
  }

  void Launch(ffi::PackedArgs arguments) {
    size_t expected = parameters.size() + launch.size();
    if (static_cast<size_t>(arguments.size()) != expected)
      TVM_FFI_THROW(TypeError) << "a Vulkan kernel takes " << expected << " arguments, not "
                               << arguments.size();
    Gpu& gpu = GetGpu(ActiveDevice());
    Guard guard(gpu.lock);
    VkCommandBuffer commands = gpu.Record();
    Extents grid = ReadGrid(gpu, arguments);
    const Pipeline& p = GetPipeline(gpu);
    VkDescriptorSet set = gpu.AllocateSet(p.set_layout);
    std::string scalars = Bind(gpu, arguments, set);
    gpu.d.vk.CmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.pipeline);
    gpu.d.vk.CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.layout, 0, 1, &set,
                                   0, nullptr);
    if (!scalars.empty())
      gpu.d.vk.CmdPushConstants(commands, p.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                                static_cast<uint32_t>(scalars.size()), scalars.data());
    gpu.d.vk.CmdDispatch(commands, grid[0], grid[1], grid[2]);
    gpu.Barrier();
    gpu.CountLaunch();
  }

 private:
  uint32_t NumBuffers() const {
    return static_cast<uint32_t>(std::count(parameters.begin(), parameters.end(), kBuffer));
  }

  const Pipeline& GetPipeline(Gpu& gpu) {
    Pipeline& p = pipelines_.Of(gpu);
    if (p.pipeline != 0) return p;
    try {
      CreateLayout(gpu, &p);
      CreatePipeline(gpu, caches->Of(gpu), &p);
    } catch (const ffi::Error&) {
      p.Destroy(gpu.d);
      throw;
    }
    caches->Count(gpu);
    return p;
  }

  void CreateLayout(Gpu& gpu, Pipeline* p) {
    if (needs_halves && !gpu.d.has_halves) Refuse(GPU_NO_HALVES);
    uint32_t count = NumBuffers();
    if (count > gpu.d.properties.limits.maxPerStageDescriptorStorageBuffers || count > kMaxBuffers)
      Refuse(GPU_UNSUITABLE);
    uint32_t scalar_bytes = 4 * (static_cast<uint32_t>(parameters.size()) - count);
    if (scalar_bytes > kMaxScalarBytes) Refuse(GPU_UNSUITABLE);
    std::vector<VkDescriptorSetLayoutBinding> bindings(count);
    for (uint32_t i = 0; i < count; ++i)
      bindings[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    VkDescriptorSetLayoutCreateInfo set{};
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    set.bindingCount = count;
    set.pBindings = bindings.data();
    Check(vulkan_check(
        gpu.d.vk.CreateDescriptorSetLayout(gpu.d.device, &set, nullptr, &p->set_layout),
        "CreateDescriptorSetLayout"));
    VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, scalar_bytes};
    VkPipelineLayoutCreateInfo layout{};
    layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    layout.setLayoutCount = 1;
    layout.pSetLayouts = &p->set_layout;
    layout.pushConstantRangeCount = scalar_bytes > 0 ? 1 : 0;
    layout.pPushConstantRanges = &range;
    Check(
        vulkan_check(gpu.d.vk.CreatePipelineLayout(gpu.d.device, &layout, nullptr, &p->layout),
                     "CreatePipelineLayout"));
  }

  void CreatePipeline(Gpu& gpu, VkPipelineCache cache, Pipeline* p) {
    VkShaderModuleCreateInfo code{};
    code.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    code.codeSize = spirv.size();
    std::vector<uint32_t> words(spirv.size() / 4);
    memcpy(words.data(), spirv.data(), words.size() * 4);
    code.pCode = words.data();
    VkShaderModule module;
    Check(vulkan_check(gpu.d.vk.CreateShaderModule(gpu.d.device, &code, nullptr, &module),
                       "CreateShaderModule"));
    VkComputePipelineCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    info.stage.module = module;
    info.stage.pName = "main";
    info.layout = p->layout;
    VkResult result =
        gpu.d.vk.CreateComputePipelines(gpu.d.device, cache, 1, &info, nullptr, &p->pipeline);
    gpu.d.vk.DestroyShaderModule(gpu.d.device, module, nullptr);
    Check(vulkan_check(result, "CreateComputePipelines"));
  }

  /* Write the buffers into a descriptor set and return the scalars as push constants. */
  std::string Bind(Gpu& gpu, ffi::PackedArgs arguments, VkDescriptorSet set) {
    std::vector<VkDescriptorBufferInfo> buffers;
    std::string scalars;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i] == kBuffer) {
        auto* buffer = static_cast<Buffer*>(arguments[i].cast<void*>());
        if (buffer->bytes > gpu.d.properties.limits.maxStorageBufferRange) Refuse(GPU_UNSUITABLE);
        buffers.push_back({buffer->handle(), buffer->offset, buffer->bytes});
      } else if (parameters[i] == kFloat) {
        float value = static_cast<float>(arguments[i].cast<double>());
        scalars.append(reinterpret_cast<char*>(&value), sizeof value);
      } else {
        auto value = static_cast<uint32_t>(arguments[i].cast<int64_t>());
        scalars.append(reinterpret_cast<char*>(&value), sizeof value);
      }
    }
    std::vector<VkWriteDescriptorSet> writes(buffers.size());
    for (uint32_t i = 0; i < writes.size(); ++i) {
      writes[i] = {};
      writes[i].sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
      writes[i].dstSet = set;
      writes[i].dstBinding = i;
      writes[i].descriptorCount = 1;
      writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
      writes[i].pBufferInfo = &buffers[i];
    }
    gpu.d.vk.UpdateDescriptorSets(gpu.d.device, static_cast<uint32_t>(writes.size()),
                                  writes.data(), 0, nullptr);
    return scalars;
  }

  /* Return the number of workgroups; the device must be able to run them, and one of this size. */
  Extents ReadGrid(const Gpu& gpu, ffi::PackedArgs arguments) const {
    Extents grid{1, 1, 1}, group{1, 1, 1};
    for (size_t i = 0; i < launch.size(); ++i) {
      auto extent = static_cast<uint32_t>(arguments[parameters.size() + i].cast<int64_t>());
      if (launch[i] < 3) grid[launch[i]] = extent;
      if (launch[i] >= 3 && launch[i] < 6) group[launch[i] - 3] = extent;
    }
    constexpr uint32_t kMost = 65535;  // of every device
    if (grid[0] > kMost && is_folded && grid[2] == 1) {
      grid[2] = (grid[0] + kMost - 1) / kMost;
      grid[0] = kMost;
    }
    const VkPhysicalDeviceLimits& limits = gpu.d.properties.limits;
    uint64_t threads = 1;
    for (int axis = 0; axis < 3; ++axis) {
      threads *= group[axis];
      if (grid[axis] > kMost || group[axis] > limits.maxComputeWorkGroupSize[axis] ||
          threads > limits.maxComputeWorkGroupInvocations)
        Refuse(GPU_UNSUITABLE);
    }
    return grid;
  }

  PerGpu<Pipeline> pipelines_;
};

}  // namespace ofa_vulkan

#endif
