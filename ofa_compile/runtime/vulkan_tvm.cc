/* Vulkan as a device of TVM: memory, copies, kernels and timers for the unmodified wheel.
 *
 * Everything a host thread asks for is recorded into one command buffer, which is submitted when
 * somebody needs to see a result: a whole inference of the Relax VM is one submission. Memory that
 * is given back stays with the process (vulkan_tvm_memory.h). All calls lock the device they are about. */
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/timer.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "vulkan_tvm_gpu.h"

namespace ofa_vulkan {

constexpr uint32_t kMaxScalarBytes = 128;  // of push constants, on every device

bool Exists(int number) {
  try {
    GetGpu(number);
    return true;
  } catch (const ffi::Error&) {
    return false;
  }
}

class VulkanDeviceAPI final : public runtime::DeviceAPI {
 public:
  static VulkanDeviceAPI* Global() {
    static auto* api = new VulkanDeviceAPI();
    return api;
  }

  static int& Active() {
    static thread_local int number = 0;
    return number;
  }

  void SetDevice(Device device) final { Active() = device.device_id; }

  void GetAttr(Device device, runtime::DeviceAttrKind kind, ffi::Any* result) final {
    if (kind == runtime::kExist) {
      *result = static_cast<int>(Exists(device.device_id));
      return;
    }
    const VkPhysicalDeviceProperties& p = GetGpu(device.device_id).d.properties;
    const uint32_t* size = p.limits.maxComputeWorkGroupSize;
    switch (kind) {
      case runtime::kMaxThreadsPerBlock:
        *result = static_cast<int64_t>(p.limits.maxComputeWorkGroupInvocations);
        break;
      case runtime::kMaxSharedMemoryPerBlock:
        *result = static_cast<int64_t>(p.limits.maxComputeSharedMemorySize);
        break;
      case runtime::kWarpSize:
        *result = static_cast<int64_t>(1);
        break;
      case runtime::kDeviceName:
        *result = ffi::String(p.deviceName);
        break;
      case runtime::kMaxThreadDimensions:
        *result = ffi::String("[" + std::to_string(size[0]) + ", " + std::to_string(size[1]) +
                              ", " + std::to_string(size[2]) + "]");
        break;
      default:
        break;
    }
  }

  void* AllocDataSpace(Device device, size_t bytes, size_t, DLDataType) final {
    Gpu& gpu = GetGpu(device.device_id);
    Guard guard(gpu.lock);
    return gpu.Allocate(bytes, false);
  }

  void FreeDataSpace(Device device, void* pointer) final {
    Gpu& gpu = GetGpu(device.device_id);
    Guard guard(gpu.lock);
    gpu.Free(static_cast<Buffer*>(pointer));
  }

  void StreamSync(Device device, TVMStreamHandle) final {
    Gpu& gpu = GetGpu(device.device_id);
    Guard guard(gpu.lock);
    gpu.Sync();
  }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, Device from_device, Device to_device, DLDataType,
                      TVMStreamHandle) final {
    if (bytes == 0) return;
    bool is_up = from_device.device_type == kDLCPU, is_down = to_device.device_type == kDLCPU;
    Gpu& gpu = GetGpu(is_up ? to_device.device_id : from_device.device_id);
    std::unique_lock<std::recursive_mutex> guard(gpu.lock);
    auto* source = static_cast<const Buffer*>(from);
    auto* target = static_cast<Buffer*>(to);
    if (is_up) {
      gpu.Upload(static_cast<const char*>(from) + from_offset, target, to_offset, bytes);
    } else if (is_down) {
      gpu.Download(source, from_offset, static_cast<char*>(to) + to_offset, bytes);
    } else if (from_device.device_id == to_device.device_id) {
      gpu.Copy(source, from_offset, target, to_offset, bytes);
    } else {
      std::vector<char> host(bytes);
      gpu.Download(source, from_offset, host.data(), bytes);
      guard.unlock();  // two locks at a time could wait for each other
      Gpu& other = GetGpu(to_device.device_id);
      Guard other_guard(other.lock);
      other.Upload(host.data(), target, to_offset, bytes);
    }
  }
};

enum ParameterKind : uint32_t { kBuffer = 0, kInt = 1, kUnsigned = 2, kFloat = 3 };
constexpr uint32_t kIgnored = 255;

struct Pipeline {
  VkDescriptorSetLayout set_layout = 0;
  VkPipelineLayout layout = 0;
  VkPipeline pipeline = 0;
};

/* The compiled pipelines of a module on every device that has run it, in the files of
 * vulkan_cache.h where a folder is named for them. */
class PipelineCaches {
 public:
  PipelineCaches(const std::string& module, size_t num_kernels) : num_kernels_(num_kernels) {
    name_ = "tvm-" + std::to_string(vulkan_hash(VULKAN_HASH, module.data(), module.size()));
  }

  ~PipelineCaches() {
    for (auto& [number, entry] : entries_) {
      Gpu& gpu = GetGpu(number);
      Guard guard(gpu.lock);
      gpu.d.vk.DestroyPipelineCache(gpu.d.device, entry.cache, nullptr);
    }
  }

  /* The caller holds the device's lock, here and below. */
  VkPipelineCache Of(Gpu& gpu, int number) {
    Entry& entry = Slot(number);
    if (entry.cache == 0) Check(vulkan_cache_load(&gpu.d, name_.c_str(), &entry.cache));
    return entry.cache;
  }

  /* Take note of a pipeline; the file is written when all of the module are there. */
  void Count(Gpu& gpu, int number) {
    Entry& entry = Slot(number);
    if (++entry.num_pipelines == num_kernels_)
      vulkan_cache_store(&gpu.d, name_.c_str(), entry.cache);
  }

 private:
  struct Entry {
    VkPipelineCache cache = 0;
    size_t num_pipelines = 0;
  };
  /* The lock of one device does not keep threads of another out of the map. */
  Entry& Slot(int number) {
    std::lock_guard<std::mutex> guard(lock_);
    return entries_[number];
  }
  std::string name_;
  size_t num_kernels_;
  std::mutex lock_;
  std::map<int, Entry> entries_;
};

/* One shader, and its pipeline on every device that has run it. */
class Kernel {
 public:
  std::shared_ptr<PipelineCaches> caches;
  std::string spirv;
  std::vector<uint32_t> parameters;  // ParameterKind
  std::vector<uint32_t> launch;      // 0-2: the grid's extent in x, y, z; else ignored
  bool is_folded = false;            // whether a grid that is too wide may go on in z
  bool needs_halves = false;         // whether it computes in float16

  ~Kernel() {
    for (auto& [number, p] : pipelines_) {
      Gpu& gpu = GetGpu(number);
      Guard guard(gpu.lock);
      try {
        gpu.Sync();
      } catch (const ffi::Error&) {
        /* A lost device runs nothing any more. */
      }
      gpu.d.vk.DestroyPipeline(gpu.d.device, p.pipeline, nullptr);
      gpu.d.vk.DestroyPipelineLayout(gpu.d.device, p.layout, nullptr);
      gpu.d.vk.DestroyDescriptorSetLayout(gpu.d.device, p.set_layout, nullptr);
    }
  }

  void Launch(ffi::PackedArgs arguments) {
    int number = VulkanDeviceAPI::Active();
    Gpu& gpu = GetGpu(number);
    Guard guard(gpu.lock);
    VkCommandBuffer commands = gpu.Record();
    const Pipeline& p = GetPipeline(gpu, number);
    VkDescriptorSet set = gpu.AllocateSet(p.set_layout);
    std::string scalars = Bind(gpu, arguments, set);
    gpu.d.vk.CmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.pipeline);
    gpu.d.vk.CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p.layout, 0, 1, &set,
                                   0, nullptr);
    if (!scalars.empty())
      gpu.d.vk.CmdPushConstants(commands, p.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                                static_cast<uint32_t>(scalars.size()), scalars.data());
    Dispatch(gpu, commands, arguments);
    gpu.Barrier();
  }

 private:
  uint32_t NumBuffers() const {
    return static_cast<uint32_t>(std::count(parameters.begin(), parameters.end(), kBuffer));
  }

  /* The lock of one device does not keep threads of another out of the map. */
  Pipeline& Slot(int number) {
    std::lock_guard<std::mutex> guard(lock_);
    return pipelines_[number];
  }

  const Pipeline& GetPipeline(Gpu& gpu, int number) {
    Pipeline& p = Slot(number);
    if (p.pipeline != 0) return p;
    if (needs_halves && !gpu.d.has_halves) Check(GPU_NO_HALVES);
    uint32_t count = NumBuffers();
    if (count > gpu.d.properties.limits.maxPerStageDescriptorStorageBuffers || count > kMaxBuffers)
      Check(GPU_UNSUITABLE);
    std::vector<VkDescriptorSetLayoutBinding> bindings(count);
    for (uint32_t i = 0; i < count; ++i)
      bindings[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    VkDescriptorSetLayoutCreateInfo set{};
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    set.bindingCount = count;
    set.pBindings = bindings.data();
    Check(vulkan_check(
        gpu.d.vk.CreateDescriptorSetLayout(gpu.d.device, &set, nullptr, &p.set_layout),
        "CreateDescriptorSetLayout"));
    uint32_t scalar_bytes = 4 * (static_cast<uint32_t>(parameters.size()) - count);
    if (scalar_bytes > kMaxScalarBytes) Check(GPU_UNSUITABLE);
    VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, scalar_bytes};
    VkPipelineLayoutCreateInfo layout{};
    layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    layout.setLayoutCount = 1;
    layout.pSetLayouts = &p.set_layout;
    layout.pushConstantRangeCount = scalar_bytes > 0 ? 1 : 0;
    layout.pPushConstantRanges = &range;
    Check(
        vulkan_check(gpu.d.vk.CreatePipelineLayout(gpu.d.device, &layout, nullptr, &p.layout),
                     "CreatePipelineLayout"));
    CreatePipeline(gpu, caches->Of(gpu, number), &p);
    caches->Count(gpu, number);
    return p;
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
        if (buffer->bytes > gpu.d.properties.limits.maxStorageBufferRange) Check(GPU_UNSUITABLE);
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

  void Dispatch(Gpu& gpu, VkCommandBuffer commands, ffi::PackedArgs arguments) {
    uint32_t grid[3] = {1, 1, 1};
    for (size_t i = 0; i < launch.size(); ++i)
      if (launch[i] < 3)
        grid[launch[i]] =
            static_cast<uint32_t>(arguments[parameters.size() + i].cast<int64_t>());
    constexpr uint32_t kMost = 65535;  // of every device
    if (grid[0] > kMost && is_folded && grid[2] == 1) {
      grid[2] = (grid[0] + kMost - 1) / kMost;
      grid[0] = kMost;
    }
    if (grid[0] > kMost || grid[1] > kMost || grid[2] > kMost) Check(GPU_UNSUITABLE);
    gpu.d.vk.CmdDispatch(commands, grid[0], grid[1], grid[2]);
  }

  std::mutex lock_;
  std::map<int, Pipeline> pipelines_;
};

/* Reads what tvm_backend.py packs: little-endian words, and bytes behind their number. */
class Reader {
 public:
  explicit Reader(const std::string& data) : data_(data) {}
  uint32_t Word() {
    uint32_t value;
    Need(sizeof value);
    memcpy(&value, data_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }
  std::string Bytes() {
    uint32_t size = Word();
    Need(size);
    position_ += size;
    return data_.substr(position_ - size, size);
  }
  std::vector<uint32_t> Words() {
    std::vector<uint32_t> values(Word());
    for (uint32_t& value : values) value = Word();
    return values;
  }

 private:
  void Need(size_t bytes) const {
    if (data_.size() - position_ < bytes)
      TVM_FFI_THROW(ValueError) << "the Vulkan module is cut off at byte " << position_;
  }
  const std::string& data_;
  size_t position_ = 0;
};

class VulkanModule final : public ffi::ModuleObj {
 public:
  explicit VulkanModule(std::string data) : data_(std::move(data)) {
    Reader reader(data_);
    if (reader.Bytes() != "ofa-vulkan-2")
      TVM_FFI_THROW(ValueError) << "this is no Vulkan module of this version";
    uint32_t count = reader.Word();
    auto caches = std::make_shared<PipelineCaches>(data_, count);
    for (uint32_t i = 0; i < count; ++i) {
      auto kernel = std::make_shared<Kernel>();
      kernel->caches = caches;
      std::string name = reader.Bytes();
      kernel->parameters = reader.Words();
      kernel->launch = reader.Words();
      kernel->is_folded = reader.Word() != 0;
      kernel->needs_halves = reader.Word() != 0;
      source_ += reader.Bytes();
      kernel->spirv = reader.Bytes();
      kernels_[name] = kernel;
    }
  }

  const char* kind() const final { return "vulkan"; }
  int GetPropertyMask() const final {
    return ffi::Module::kBinarySerializable | ffi::Module::kRunnable;
  }
  ffi::Optional<ffi::Function> GetFunction(const ffi::String& name) final {
    auto found = kernels_.find(std::string(name));
    if (found == kernels_.end()) return std::nullopt;
    return ffi::Function::FromPacked([kernel = found->second](ffi::PackedArgs arguments,
                                                              ffi::Any*) {
      kernel->Launch(arguments);
    });
  }
  ffi::Bytes SaveToBytes() const final { return ffi::Bytes(data_.data(), data_.size()); }
  ffi::String InspectSource(const ffi::String&) const final { return source_; }

 private:
  std::string data_, source_;
  std::unordered_map<std::string, std::shared_ptr<Kernel>> kernels_;
};

ffi::Module LoadModule(const ffi::Bytes& data) {
  return ffi::Module(ffi::make_object<VulkanModule>(std::string(data.data(), data.size())));
}

/* Times by the device's own clock. */
class VulkanTimer final : public runtime::TimerNode {
 public:
  explicit VulkanTimer(Device device) : gpu_(GetGpu(device.device_id)) {
    if (gpu_.d.timestamp_bits == 0) Check(GPU_NO_TIMESTAMPS);
    VkQueryPoolCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    info.queryType = VK_QUERY_TYPE_TIMESTAMP;
    info.queryCount = 2;
    Check(vulkan_check(gpu_.d.vk.CreateQueryPool(gpu_.d.device, &info, nullptr, &queries_),
                       "CreateQueryPool"));
  }
  ~VulkanTimer() {
    Guard guard(gpu_.lock);
    if (is_pending_) gpu_.Sync();
    gpu_.d.vk.DestroyQueryPool(gpu_.d.device, queries_, nullptr);
  }
  void Start() final {
    Guard guard(gpu_.lock);
    gpu_.Sync();
    gpu_.d.vk.CmdResetQueryPool(gpu_.Record(), queries_, 0, 2);
    Stamp(0);
  }
  void Stop() final {
    Guard guard(gpu_.lock);
    Stamp(1);
  }
  int64_t SyncAndGetElapsedNanos() final {
    Guard guard(gpu_.lock);
    gpu_.Sync();
    is_pending_ = false;
    uint64_t stamps[2];
    VkResult result = gpu_.d.vk.GetQueryPoolResults(
        gpu_.d.device, queries_, 0, 2, sizeof stamps, stamps, sizeof *stamps,
        VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
    Check(vulkan_check(result, "GetQueryPoolResults"));
    uint64_t mask = gpu_.d.timestamp_bits >= 64 ? ~uint64_t(0)
                                                : (uint64_t(1) << gpu_.d.timestamp_bits) - 1;
    double ticks = static_cast<double>((stamps[1] - stamps[0]) & mask);
    return static_cast<int64_t>(ticks * gpu_.d.properties.limits.timestampPeriod);
  }
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("ofa_compile.VulkanTimer", VulkanTimer, runtime::TimerNode);

 private:
  void Stamp(uint32_t number) {
    gpu_.d.vk.CmdWriteTimestamp(gpu_.Record(), VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_,
                                number);
    is_pending_ = true;
  }
  Gpu& gpu_;
  VkQueryPool queries_ = 0;
  bool is_pending_ = false;
};

TVM_FFI_STATIC_INIT_BLOCK() {
  namespace refl = tvm::ffi::reflection;
  refl::GlobalDef()
      .def_packed("device_api.vulkan",
                  [](ffi::PackedArgs, ffi::Any* result) {
                    runtime::DeviceAPI* api = VulkanDeviceAPI::Global();
                    *result = static_cast<void*>(api);
                  })
      .def("ffi.Module.load_from_bytes.vulkan", LoadModule)
      .def("runtime.timer.vulkan", [](Device device) {
        return runtime::Timer(ffi::make_object<VulkanTimer>(device));
      });
}

}  // namespace ofa_vulkan
