// What software_driver.cc keeps, and what every call checks.
#ifndef OFA_SOFTWARE_STATE_H
#define OFA_SOFTWARE_STATE_H

#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "software_device.h"

struct CUstream_st {
    Work pending, captured;
    std::thread::id capturing;  // the thread that captures, if any
    bool is_global = false;     // the capture forbids unsafe calls of every thread
    bool is_spoiled = false;
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
    bool is_loaded = false;
};
struct CUevent_st {
    int position = 0;
    bool is_recorded = false, is_pending = false;
};
struct CUctx_st {
    int users = 0;
};

namespace {

// Never destroyed, since a program may end while the device works.
struct Driver {
    std::recursive_mutex lock;
    std::set<const void *> alive;  // streams, graphs, modules, functions and events
    std::set<CUstream> captures;
    std::map<char *, size_t> device_memory, host_memory;
    size_t bytes_in_use = 0;
    int events_recorded = 0;
    pid_t process = 0;  // that started it
    CUctx_st primary;
};
Driver &driver = *new Driver;
/* Never freed: programs close their devices as they exit, when a thread's objects are gone. */
thread_local std::vector<CUcontext> &contexts = *new std::vector<CUcontext>;
thread_local int capture_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

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

size_t total_bytes() { return std::stoull(setting("OFA_SOFTWARE_MEMORY", "17179869184")); }

// What every call but the first must find.
CUresult check_start() {
    return driver.process == getpid() ? CUDA_SUCCESS : NOT_INITIALIZED;
}

CUresult check_context() {
    if (CUresult result = check_start()) return result;
    if (contexts.empty() || driver.primary.users == 0) return INVALID_CONTEXT;
    return device_fault();
}

// Of calls that are no work of a stream: a capture would not know of them. They spoil those of this
// thread, and of others where both sides are strict, unless the thread says that it may.
CUresult check_no_capture() {
    CUresult result = CUDA_SUCCESS;
    if (capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) return result;
    for (CUstream stream : driver.captures) {
        bool is_own = stream->capturing == std::this_thread::get_id();
        bool is_strict = stream->is_global && capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
        if (!is_own && !is_strict) continue;
        stream->is_spoiled = true;
        result = STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

CUresult check_alive(const void *handle) {
    return driver.alive.count(handle) != 0 ? CUDA_SUCCESS : INVALID_HANDLE;
}

template <class T>
CUresult give(T **handle, T *created) {
    driver.alive.insert(created);
    *handle = created;
    return CUDA_SUCCESS;
}

template <class T>
CUresult take_back(T *handle) {
    if (driver.alive.erase(handle) == 0) return INVALID_HANDLE;
    delete handle;
    return CUDA_SUCCESS;
}

bool lies_in(const std::map<char *, size_t> &memory, const void *start, size_t bytes) {
    const char *first = static_cast<const char *>(start);
    for (const auto &[begin, size] : memory)
        if (first >= begin && first + bytes <= begin + size) return true;
    return false;
}

bool is_capturing(CUstream stream) { return stream->capturing != std::thread::id(); }

CUresult enqueue(CUstream stream, Step step) {
    if (step.event != nullptr && !is_capturing(stream)) step.event->is_pending = true;
    (is_capturing(stream) ? stream->captured : stream->pending).push_back(std::move(step));
    return CUDA_SUCCESS;
}

CUresult enqueue(CUstream stream, std::function<CUresult()> run) {
    return enqueue(stream, Step{std::move(run)});
}

CUresult copy(void *to, const void *from, size_t bytes) {
    std::memcpy(to, from, bytes);
    return CUDA_SUCCESS;
}

void *pointer(CUdeviceptr value) { return reinterpret_cast<void *>(value); }

// What the primary context held is gone with it.
void destroy_context() {
    for (const auto &[memory, bytes] : driver.device_memory) device_free(memory, bytes);
    driver.device_memory.clear();
    driver.bytes_in_use = 0;
    driver.alive.clear();
    device_reset();
}

bool fits(unsigned x, unsigned y, unsigned z, unsigned most_x, unsigned most_y, unsigned most_z) {
    return x - 1 < most_x && y - 1 < most_y && z - 1 < most_z;
}

}  // namespace

#define NEED(check)                                                                              \
    if (CUresult result_of_check = check) return result_of_check
#define BEGIN()                                                                                  \
    std::lock_guard<std::recursive_mutex> hold(driver.lock);                                     \
    NEED(check_context())
#define BEGIN_APART()                                                                            \
    BEGIN();                                                                                     \
    NEED(check_no_capture())

#endif
