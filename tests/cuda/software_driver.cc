// Stands for libcuda.so.1: runs what software_nvcc.py compiled, on the CPU.
//
// It is asynchronous in the least convenient way: nothing runs before someone waits for it.
// The environment makes it fail and makes it write down what was called:
//   OFA_SOFTWARE_FAIL=cuMemAlloc_v2:2    every such call returns 2; name@3:2 the third alone
//   OFA_SOFTWARE_LOG=FILE                names of calls, one a line
//   OFA_SOFTWARE_DEVICES=A,B             names of devices; empty for none
//   OFA_SOFTWARE_VERSION=12040           version of CUDA that it knows
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

extern "C" {
#include "cuda_api.h"
}
#include "software_grid.h"

using Work = std::vector<std::function<CUresult()>>;

struct CUstream_st {
    Work pending;
    bool is_capturing = false;
    Work captured;
};
struct CUgraph_st {
    Work work;
};
struct CUgraphExec_st {
    Work work;
};
struct CUmod_st {
    void *library;
    int file;  // stays open: dlopen takes equal paths for the same library
};
struct CUfunc_st {
    const SoftwareKernel *kernel;
};
struct CUevent_st {
    int position = 0;
};
struct CUctx_st {};

namespace {

std::map<char *, size_t> device_memory, host_memory;
int events_recorded = 0, depth = 0;
CUctx_st primary;
CUstream_st default_stream;

std::string setting(const char *name, const char *otherwise) {
    const char *value = std::getenv(name);
    return value != nullptr ? value : otherwise;
}

std::vector<std::string> devices() {
    std::vector<std::string> names;
    std::string text = setting("OFA_SOFTWARE_DEVICES", "Software CUDA"), name;
    for (char c : text + ",") {
        if (c != ',') {
            name += c;
        } else if (!name.empty()) {
            names.push_back(name);
            name.clear();
        }
    }
    return names;
}

// Write a call down; the result that the environment wants of it, or success.
CUresult note(const char *name) {
    static std::map<std::string, int> counts;
    std::string log = setting("OFA_SOFTWARE_LOG", "");
    if (!log.empty()) {
        std::FILE *file = std::fopen(log.c_str(), "a");
        std::fprintf(file, "%s\n", name);
        std::fclose(file);
    }
    std::string fail = setting("OFA_SOFTWARE_FAIL", "");
    size_t colon = fail.find(':'), at = fail.find('@');
    if (colon == std::string::npos || fail.substr(0, std::min(colon, at)) != name) return 0;
    int number = ++counts[name];
    if (at != std::string::npos && std::atoi(fail.c_str() + at + 1) != number) return 0;
    return std::atoi(fail.c_str() + colon + 1);
}

bool lies_in(const std::map<char *, size_t> &memory, const void *start, size_t bytes) {
    const char *first = static_cast<const char *>(start);
    for (const auto &[begin, size] : memory)
        if (first >= begin && first + bytes <= begin + size) return true;
    return false;
}

CUresult enqueue(CUstream stream, std::function<CUresult()> work) {
    (stream->is_capturing ? stream->captured : stream->pending).push_back(std::move(work));
    return CUDA_SUCCESS;
}

CUresult copy(void *to, const void *from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return CUDA_SUCCESS;
}

// Threads of a workgroup that wait for each other are fibers.
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(256 << 10);
    bool is_done;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber *running;
const SoftwareKernel *current;
void **parameters;

void wait() { swapcontext(&running->context, &scheduler); }

void run_fiber() {
    current->call(parameters);
    running->is_done = true;
}

void start(Fiber &fiber) {
    fiber.is_done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_fiber, 0);
}

// Every round runs each thread up to its next barrier.
void run_together(const Coordinates &size, unsigned count) {
    if (fibers.size() < count) fibers.resize(count);
    for (unsigned i = 0; i < count; ++i) start(fibers[i]);
    for (unsigned done = 0; done < count;) {
        done = 0;
        for (unsigned i = 0; i < count; ++i) {
            running = &fibers[i];
            if (!running->is_done) {
                current->place->thread = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
                swapcontext(&scheduler, &running->context);
            }
            done += running->is_done;
        }
    }
}

void run_apart(const Coordinates &size) {
    Coordinates &thread = current->place->thread;
    for (thread.z = 0; thread.z < size.z; ++thread.z)
        for (thread.y = 0; thread.y < size.y; ++thread.y)
            for (thread.x = 0; thread.x < size.x; ++thread.x) current->call(parameters);
}

CUresult run_grid(const SoftwareKernel *kernel, Coordinates grid, Coordinates threads,
                  std::vector<CUdeviceptr> arguments) {
    std::vector<void *> pointers;
    for (CUdeviceptr &argument : arguments) pointers.push_back(&argument);
    current = kernel;
    parameters = pointers.data();
    Place &place = *kernel->place;
    place.threads = threads;
    place.wait = wait;
    for (place.block.z = 0; place.block.z < grid.z; ++place.block.z)
        for (place.block.y = 0; place.block.y < grid.y; ++place.block.y)
            for (place.block.x = 0; place.block.x < grid.x; ++place.block.x)
                if (kernel->waits)
                    run_together(threads, threads.x * threads.y * threads.z);
                else
                    run_apart(threads);
    return CUDA_SUCCESS;
}

void *pointer(CUdeviceptr value) { return reinterpret_cast<void *>(value); }

}  // namespace

#define NOTE()                                                                                   \
    if (CUresult wanted = note(__func__)) return wanted

extern "C" {

CUresult cuInit(unsigned) {
    NOTE();
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    NOTE();
    *version = std::atoi(setting("OFA_SOFTWARE_VERSION", "13000").c_str());
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult, const char **name) {
    *name = "CUDA_ERROR_OF_THE_TEST";
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    NOTE();
    *count = int(devices().size());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int number) {
    NOTE();
    *device = number;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device) {
    NOTE();
    std::snprintf(name, size_t(bytes), "%s", devices()[size_t(device)].c_str());
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *text, int bytes, CUdevice device) {
    NOTE();
    std::snprintf(text, size_t(bytes), "0000:%02x:00.0", unsigned(device));
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice) {
    NOTE();
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 9 : 0;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    NOTE();
    *context = &primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
    NOTE();
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext) {
    NOTE();
    ++depth;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    NOTE();
    *context = &primary;
    return --depth < 0 ? 201 : CUDA_SUCCESS;
}

CUresult cuStreamCreate(CUstream *stream, unsigned) {
    NOTE();
    *stream = new CUstream_st;
    return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
    NOTE();
    delete stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    NOTE();
    if (stream == nullptr) stream = &default_stream;
    if (stream->is_capturing) return 900;
    Work work;
    work.swap(stream->pending);
    for (auto &item : work)
        if (CUresult result = item()) return result;
    return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int) {
    NOTE();
    stream->is_capturing = true;
    return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    NOTE();
    stream->is_capturing = false;
    *graph = new CUgraph_st;
    (*graph)->work.swap(stream->captured);
    return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *run, CUgraph graph, unsigned long long) {
    NOTE();
    *run = new CUgraphExec_st{graph->work};
    return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec run, CUstream stream) {
    NOTE();
    for (auto &item : run->work) enqueue(stream, item);
    return CUDA_SUCCESS;
}

CUresult cuGraphExecDestroy(CUgraphExec run) {
    NOTE();
    delete run;
    return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
    NOTE();
    delete graph;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *memory, size_t bytes) {
    NOTE();
    void *data = nullptr;
    if (posix_memalign(&data, 256, bytes) != 0) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(data, 0xff, bytes);  // as NaN: what is read before it is written shows
    device_memory[static_cast<char *>(data)] = bytes;
    *memory = reinterpret_cast<CUdeviceptr>(data);
    return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr memory) {
    NOTE();
    if (device_memory.erase(static_cast<char *>(pointer(memory))) == 0) return 1;
    std::free(pointer(memory));
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
    NOTE();
    *memory = std::calloc(1, bytes);
    host_memory[static_cast<char *>(*memory)] = bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *memory) {
    NOTE();
    host_memory.erase(static_cast<char *>(memory));
    std::free(memory);
    return CUDA_SUCCESS;
}

// Memory that is not pinned may be changed at once, but has not arrived yet.
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    NOTE();
    if (!lies_in(device_memory, pointer(to), bytes)) return 1;
    const char *first = static_cast<const char *>(from);
    std::vector<char> staged(first, first + bytes);
    return enqueue(&default_stream, [=] { return copy(pointer(to), staged.data(), bytes); });
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    NOTE();
    // From memory that is not pinned the copy would not be asynchronous.
    if (!lies_in(device_memory, pointer(to), bytes) || !lies_in(host_memory, from, bytes)) return 1;
    return enqueue(stream, [=] { return copy(pointer(to), from, bytes); });
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    NOTE();
    if (!lies_in(device_memory, pointer(from), bytes) || !lies_in(host_memory, to, bytes)) return 1;
    return enqueue(stream, [=] { return copy(to, pointer(from), bytes); });
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    NOTE();
    if (!lies_in(device_memory, pointer(to), bytes)) return 1;
    return enqueue(stream, [=] {
        std::memset(pointer(to), value, bytes);
        return CUresult(CUDA_SUCCESS);
    });
}

// The image is a shared library; its section table, which lies last, tells its size.
CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    NOTE();
    const auto *head = static_cast<const Elf64_Ehdr *>(image);
    if (std::memcmp(head->e_ident, ELFMAG, SELFMAG) != 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    size_t bytes = head->e_shoff + size_t(head->e_shnum) * head->e_shentsize;
    int file = memfd_create("kernel", 0);
    if (write(file, image, bytes) != ssize_t(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    std::string path = "/proc/self/fd/" + std::to_string(file);
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return CUDA_ERROR_INVALID_IMAGE;
    *module = new CUmod_st{library, file};
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
    NOTE();
    dlclose(module->library);
    close(module->file);
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    NOTE();
    const void *found = dlsym(module->library, "ofa_software_kernel");
    const auto *kernel = static_cast<const SoftwareKernel *>(found);
    if (kernel == nullptr || std::strcmp(kernel->name, name) != 0) return 500;
    *function = new CUfunc_st{kernel};
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned, CUstream stream, void **values,
                        void **) {
    NOTE();
    if (gx == 0 || gy - 1 >= 65535 || gz - 1 >= 65535 || bx * by * bz > 1024) return 1;
    // Arguments are taken now, as a driver does.
    std::vector<CUdeviceptr> taken;
    for (unsigned i = 0; i < function->kernel->arguments; ++i)
        taken.push_back(*static_cast<CUdeviceptr *>(values[i]));
    Coordinates grid{gx, gy, gz}, threads{bx, by, bz};
    return enqueue(stream, [=] { return run_grid(function->kernel, grid, threads, taken); });
}

CUresult cuEventCreate(CUevent *event, unsigned) {
    NOTE();
    *event = new CUevent_st;
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
    NOTE();
    delete event;
    return CUDA_SUCCESS;
}

// What is captured without the flag tells a graph what to wait for, and is no part of it.
CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned flags) {
    NOTE();
    if (stream->is_capturing && flags != CU_EVENT_RECORD_EXTERNAL) return CUDA_SUCCESS;
    return enqueue(stream, [=] {
        event->position = ++events_recorded;
        return CUresult(CUDA_SUCCESS);
    });
}

// One millisecond passes between two events.
CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    NOTE();
    *milliseconds = float(end->position - start->position);
    return start->position != 0 ? CUDA_SUCCESS : 600;
}

}  // extern "C"
