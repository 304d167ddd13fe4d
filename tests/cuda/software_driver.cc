// Stands for libcuda.so.1: runs what software_nvcc.py compiled, on the CPU.
//
// It is as inconvenient as a driver may be: nothing runs before someone waits for it, and what NVIDIA's
// documentation forbids is refused: calls without a context, of things that are gone, while a capture
// goes on, in a forked child. The environment changes what it is:
//   OFA_SOFTWARE_DEVICES=A,B             names of devices; empty for none
//   OFA_SOFTWARE_VERSION=12040           version of CUDA that it knows
//   OFA_SOFTWARE_MEMORY=1000000          bytes of the device
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>

#include <cstdio>

#include "software_state.h"

extern "C" {
#include "cuda_errors.h"
}

extern "C" {

CUresult cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> hold(driver.lock);
    if (driver.process == 0) driver.process = getpid();
    NEED(check_start());
    return devices().empty() ? NO_DEVICE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    *version = std::stoi(setting("OFA_SOFTWARE_VERSION", "13000"));
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult result, const char **name) {
#define NAME(number, text, code)                                                                 \
    case number: *name = "CUDA_ERROR_" #text; return CUDA_SUCCESS;
    switch (result) {
        OFA_CUDA_RESULTS(NAME)
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; return CUDA_SUCCESS;
    default: return INVALID_VALUE;
    }
}

CUresult cuDeviceGetCount(int *count) {
    NEED(check_start());
    *count = int(devices().size());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int number) {
    NEED(check_start());
    *device = number;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device) {
    NEED(check_start());
    std::snprintf(name, size_t(bytes), "%s", devices()[size_t(device)].c_str());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *text, int bytes, CUdevice device) {
    NEED(check_start());
    std::snprintf(text, size_t(bytes), "0000:%02x:00.0", unsigned(device));
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice) {
    NEED(check_start());
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    std::lock_guard<std::recursive_mutex> hold(driver.lock);
    NEED(check_start());
    ++driver.primary.users;
    *context = &driver.primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
    std::lock_guard<std::recursive_mutex> hold(driver.lock);
    NEED(check_start());
    if (driver.primary.users == 0) return INVALID_CONTEXT;
    if (--driver.primary.users == 0) {
        device_finish();
        destroy_context();
    }
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    std::lock_guard<std::recursive_mutex> hold(driver.lock);
    NEED(check_start());
    if (context != &driver.primary || driver.primary.users == 0) return INVALID_CONTEXT;
    contexts.push_back(context);
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    if (contexts.empty()) return INVALID_CONTEXT;
    *context = contexts.back();
    contexts.pop_back();
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = contexts.empty() ? nullptr : contexts.back();
    return CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    BEGIN_APART();
    // Another would wait for the default stream, which other users of the process have.
    return flags != CU_STREAM_NON_BLOCKING ? INVALID_VALUE : give(stream, new CUstream_st);
}

CUresult cuStreamDestroy_v2(CUstream stream) {
    BEGIN();
    driver.captures.erase(stream);
    return take_back(stream);
}

CUresult cuStreamQuery(CUstream stream) {
    BEGIN_APART();
    NEED(check_alive(stream));
    if (is_capturing(stream)) {
        stream->is_spoiled = true;
        return STREAM_CAPTURE_UNSUPPORTED;
    }
    Work work;
    work.swap(stream->pending);
    if (!work.empty()) {
        device_start(std::move(work));
        return CUDA_ERROR_NOT_READY;
    }
    return device_result();
}

CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
    std::swap(*mode, capture_mode);
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int mode) {
    BEGIN();
    if (stream == nullptr) return STREAM_CAPTURE_UNSUPPORTED;
    NEED(check_alive(stream));
    if (is_capturing(stream)) return ILLEGAL_STATE;
    if (mode == CU_STREAM_CAPTURE_MODE_RELAXED) return INVALID_VALUE;  // which would check nothing
    stream->capturing = std::this_thread::get_id();
    stream->is_global = mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
    stream->is_spoiled = false;
    driver.captures.insert(stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    BEGIN();
    NEED(check_alive(stream));
    if (!is_capturing(stream)) return ILLEGAL_STATE;
    if (stream->capturing != std::this_thread::get_id()) return STREAM_CAPTURE_WRONG_THREAD;
    stream->capturing = std::thread::id();
    driver.captures.erase(stream);
    Work work;
    work.swap(stream->captured);
    *graph = nullptr;
    return stream->is_spoiled ? STREAM_CAPTURE_INVALIDATED : give(graph, new CUgraph_st{work});
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *run, CUgraph graph, unsigned long long) {
    BEGIN_APART();
    NEED(check_alive(graph));
    return give(run, new CUgraphExec_st{graph->work});
}

CUresult cuGraphLaunch(CUgraphExec run, CUstream stream) {
    BEGIN();
    NEED(check_alive(run));
    NEED(check_alive(stream));
    for (auto &step : run->work) enqueue(stream, step);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec run) {
    BEGIN();
    return take_back(run);
}

CUresult cuGraphDestroy(CUgraph graph) {
    BEGIN();
    return take_back(graph);
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    BEGIN_APART();
    *total = total_bytes();
    *free = *total - driver.bytes_in_use;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    BEGIN_APART();
    if (bytes == 0) return INVALID_VALUE;
    if (driver.bytes_in_use + bytes > total_bytes()) return OUT_OF_MEMORY;
    void *data = device_allocate(bytes);
    if (data == nullptr) return OUT_OF_MEMORY;
    driver.device_memory[static_cast<char *>(data)] = bytes;
    driver.bytes_in_use += bytes;
    *memory = reinterpret_cast<CUdeviceptr>(data);
    return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr memory) {
    BEGIN_APART();
    auto found = driver.device_memory.find(static_cast<char *>(pointer(memory)));
    if (found == driver.device_memory.end()) return INVALID_VALUE;
    device_finish();
    device_free(found->first, found->second);
    driver.bytes_in_use -= found->second;
    driver.device_memory.erase(found);
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    BEGIN_APART();
    if (bytes == 0) return INVALID_VALUE;
    *memory = std::malloc(bytes);
    std::memset(*memory, 0xff, bytes);
    driver.host_memory[static_cast<char *>(*memory)] = bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *memory) {
    BEGIN_APART();
    if (driver.host_memory.erase(static_cast<char *>(memory)) == 0) return INVALID_VALUE;
    std::free(memory);
    return CUDA_SUCCESS;
}

// Memory that is not pinned is copied at once to some that is, which a graph cannot do.
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    BEGIN();
    NEED(check_alive(stream));
    if (!lies_in(driver.device_memory, pointer(to), bytes)) return INVALID_VALUE;
    if (lies_in(driver.host_memory, from, bytes))
        return enqueue(stream, [=] { return copy(pointer(to), from, bytes); });
    if (is_capturing(stream)) return INVALID_VALUE;
    const char *first = static_cast<const char *>(from);
    std::vector<char> staged(first, first + bytes);
    return enqueue(stream, [=] { return copy(pointer(to), staged.data(), bytes); });
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    BEGIN();
    NEED(check_alive(stream));
    if (!lies_in(driver.device_memory, pointer(from), bytes) ||
        !lies_in(driver.host_memory, to, bytes))
        return INVALID_VALUE;
    return enqueue(stream, [=] { return copy(to, pointer(from), bytes); });
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    BEGIN();
    NEED(check_alive(stream));
    if (!lies_in(driver.device_memory, pointer(to), bytes)) return INVALID_VALUE;
    return enqueue(stream, [=] {
        std::memset(pointer(to), value, bytes);
        return CUresult(CUDA_SUCCESS);
    });
}

// The image is a shared library; its section table, which lies last, tells its size.
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    BEGIN_APART();
    const auto *head = static_cast<const Elf64_Ehdr *>(image);
    if (std::memcmp(head->e_ident, ELFMAG, SELFMAG) != 0) return NO_BINARY_FOR_GPU;
    size_t bytes = head->e_shoff + size_t(head->e_shnum) * head->e_shentsize;
    int file = memfd_create("kernel", 0);
    if (write(file, image, bytes) != ssize_t(bytes)) return OUT_OF_MEMORY;
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return INVALID_IMAGE;
    return give(module, new CUmod_st{library, file});
}

CUresult cuModuleUnload(CUmodule module) {
    BEGIN_APART();
    NEED(check_alive(module));
    device_finish();
    dlclose(module->library);
    close(module->file);
    return take_back(module);
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    BEGIN_APART();
    NEED(check_alive(module));
    const void *found = dlsym(module->library, "ofa_software_kernel");
    const auto *kernel = static_cast<const SoftwareKernel *>(found);
    if (kernel == nullptr || std::strcmp(kernel->name, name) != 0) return NOT_FOUND;
    return give(function, new CUfunc_st{kernel});
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned, CUstream stream, void **values,
                        void **) {
    BEGIN();
    NEED(check_alive(function));
    NEED(check_alive(stream));
    const SoftwareKernel *kernel = function->kernel;
    if (!fits(gx, gy, gz, 0x7fffffff, 65535, 65535) || !fits(bx, by, bz, 1024, 1024, 64))
        return INVALID_VALUE;
    if (bx * by * bz > 1024) return INVALID_VALUE;
    if (bx * by * bz > kernel->most_threads) return LAUNCH_OUT_OF_RESOURCES;
    // A driver loads code when it is first used, which a capture does not allow.
    if (!function->is_loaded && is_capturing(stream)) return STREAM_CAPTURE_UNSUPPORTED;
    function->is_loaded = true;
    // Arguments are taken now, as a driver does.
    std::vector<CUdeviceptr> taken;
    bool is_aligned = true;
    for (unsigned i = 0; i < kernel->arguments; ++i) {
        taken.push_back(*static_cast<CUdeviceptr *>(values[i]));
        is_aligned &= taken.back() % kernel->alignments[i] == 0;
    }
    Coordinates grid{gx, gy, gz}, threads{bx, by, bz};
    return enqueue(stream, [=] {
        return is_aligned ? run_grid(kernel, grid, threads, taken) : MISALIGNED_ADDRESS;
    });
}

CUresult cuEventCreate(CUevent *event, unsigned) {
    BEGIN();
    return give(event, new CUevent_st);
}

CUresult cuEventDestroy_v2(CUevent event) {
    BEGIN();
    return take_back(event);
}

// What is captured without the flag tells a graph what to wait for, and is no part of it.
CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    BEGIN();
    NEED(check_alive(event));
    NEED(check_alive(stream));
    const bool is_external = flags == CU_EVENT_RECORD_EXTERNAL;
    if (is_external && !is_capturing(stream)) return INVALID_VALUE;
    if (is_capturing(stream) && !is_external) return CUDA_SUCCESS;
    auto record = [=] {
        event->position = ++driver.events_recorded;
        event->is_recorded = true;
        event->is_pending = false;
        return CUresult(CUDA_SUCCESS);
    };
    return enqueue(stream, Step{record, event});
}

// One millisecond passes between two events.
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    BEGIN();
    for (CUevent event : {start, end}) {
        NEED(check_alive(event));
        if (event->is_pending) return CUDA_ERROR_NOT_READY;
        if (!event->is_recorded) return INVALID_HANDLE;
    }
    *milliseconds = float(end->position - start->position);
    return CUDA_SUCCESS;
}

}  // extern "C"
