/* Vulkan as a device of TVM: memory, copies, kernels and timers for the unmodified wheel.
 *
 * Everything a host thread asks for is recorded into one command buffer, which is submitted when
 * somebody needs to see a result: a whole inference of the Relax VM is one submission. Memory that
 * is given back stays with the process (vulkan_tvm_memory.h). All calls lock the device they are about.
 * What TVM calls from destructors throws nothing: not on a lost device, nor in a forked child. */
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>
#include <tvm/runtime/device_api.h>
#include <tvm/runtime/timer.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "vulkan_tvm_kernel.h"

namespace ofa_vulkan {

/* What plugin_build.py looks for in the library's file before it is loaded. */
__attribute__((used)) const char kKey[] = OFA_PLUGIN_KEY;

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

  void SetDevice(Device device) final { ActiveDevice() = device.device_id; }

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
    try {
      Gpu& gpu = GetGpu(device.device_id);
      Guard guard(gpu.lock);
      gpu.Free(static_cast<Buffer*>(pointer));
    } catch (const ffi::Error&) {
      /* In a forked child, where it is the parent's. */
    }
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
    size_t count = Word();
    Need(count * sizeof(uint32_t));
    std::vector<uint32_t> values(count);
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
    if (reader.Bytes() != "ofa-vulkan-3")
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
    if (gpu_.d.timestamp_bits == 0) Refuse(GPU_NO_TIMESTAMPS);
    VkQueryPoolCreateInfo info{};
    info.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    info.queryType = VK_QUERY_TYPE_TIMESTAMP;
    info.queryCount = 2;
    Check(vulkan_check(gpu_.d.vk.CreateQueryPool(gpu_.d.device, &info, nullptr, &queries_),
                       "CreateQueryPool"));
  }
  ~VulkanTimer() {
    if (!gpu_.IsOurs()) return;
    Guard guard(gpu_.lock);
    if (gpu_.Finish()) gpu_.d.vk.DestroyQueryPool(gpu_.d.device, queries_, nullptr);
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
    uint64_t stamps[2];
    /* They are there, since the device has finished; to wait for those of a submission that failed
     * would be to wait for ever. */
    VkResult result = gpu_.d.vk.GetQueryPoolResults(gpu_.d.device, queries_, 0, 2, sizeof stamps,
                                                    stamps, sizeof *stamps, VK_QUERY_RESULT_64_BIT);
    Check(vulkan_check(result, "GetQueryPoolResults"));
    if (result > 0) TVM_FFI_THROW(RuntimeError) << "what was to be timed has not run";
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
  }
  Gpu& gpu_;
  VkQueryPool queries_ = 0;
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
