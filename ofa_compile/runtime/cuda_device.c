#define _POSIX_C_SOURCE 200809L

#include "cuda_device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cuda_errors.h"
#include "ofa_network.h"

/* A wait that has lasted this long begins to sleep, each time for a share of what has passed. */
#define SPIN_MS 100.0
#define SHARE_ASLEEP 0.01
#define LONGEST_SLEEP_MS 10.0

static int code_of(CUresult result) {
#define OFA_CODE(number, name, code)                                                             \
    case number: return code;
    switch (result) {
        OFA_CUDA_RESULTS(OFA_CODE)
    default: return GPU_FAILED;
    }
#undef OFA_CODE
}

int cuda_check(const cuda_device *d, CUresult result, const char *call) {
    if (result == CUDA_SUCCESS) return 0;
    const char *name = NULL;
    if (d->cu.GetErrorName == NULL || d->cu.GetErrorName(result, &name) != CUDA_SUCCESS ||
        name == NULL)
        name = "unknown";
    return gpu_failed(code_of(result), "cu%s: %d, %s", call, result, name);
}

const char *cuda_explain(int code) {
#define OFA_TEXT(number, what, advice)                                                           \
    case number: return what "; " advice;
    switch (code) {
        OFA_CUDA_TEXTS(OFA_TEXT)
    default: return "unknown error";
    }
#undef OFA_TEXT
}

static void sleep_ms(double milliseconds) {
    struct timespec time = {.tv_nsec = (long)(milliseconds * 1e6)};
    nanosleep(&time, NULL);
}

/* The driver's own wait has no limit, so that a GPU that hangs would freeze its user as well. */
int cuda_wait(const cuda_device *d) {
    const double start = ofa_now_ms(), patience = gpu_patience_ms();
    for (;;) {
        CUresult result = d->cu.StreamQuery(d->stream);
        if (result != CUDA_ERROR_NOT_READY) return cuda_check(d, result, "StreamQuery");
        double waited = ofa_now_ms() - start;
        if (waited > patience)
            return gpu_failed(GPU_HUNG, "no answer for %.3g s", patience / 1e3);
        if (waited > SPIN_MS) {
            double pause = waited * SHARE_ASLEEP;
            sleep_ms(pause < LONGEST_SLEEP_MS ? pause : LONGEST_SLEEP_MS);
        }
    }
}

/* A void pointer does not convert to a function's in ISO C; its bytes do. */
#define OFA_LOAD(field, name, parameters)                                                        \
    {                                                                                            \
        void *symbol = dlsym(library, name);                                                     \
        if (symbol == NULL)                                                                      \
            return gpu_failed(GPU_OLD_DRIVER, "libcuda.so.1 lacks %s", name);                    \
        memcpy(&d->cu.field, &symbol, sizeof symbol);                                            \
    }

static int load_library(cuda_device *d) {
    /* Never closed: drivers do not all survive being unloaded. */
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return GPU_NO_DRIVER;
    OFA_CUDA_FUNCTIONS(OFA_LOAD)
    return 0;
}

static int check_driver(cuda_device *d) {
    int code = cuda_check(d, d->cu.Init(0), "Init");
    /* Nothing was open that could be lost. */
    if (code == GPU_FAILED || code == GPU_DEVICE_LOST) return GPU_NOT_STARTED;
    if (code == 0)
        code = cuda_check(d, d->cu.DriverGetVersion(&d->driver_version), "DriverGetVersion");
    const int known = d->driver_version, oldest = OFA_CUDA_OLDEST_DRIVER;
    if (code == 0 && known < oldest)
        code = gpu_failed(GPU_OLD_DRIVER, "it knows CUDA %d.%d, at least %d.%d is needed",
                          known / 1000, known % 1000 / 10, oldest / 1000, oldest % 1000 / 10);
    return code;
}

static int describe_device(cuda_device *d, int number) {
    int major = 0, minor = 0;
    int code = cuda_check(d, d->cu.DeviceGet(&d->device, number), "DeviceGet");
    if (code == 0)
        code = cuda_check(d, d->cu.DeviceGetName(d->name, sizeof d->name, d->device),
                          "DeviceGetName");
    const int attributes[2] = {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                               CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR};
    int *const values[2] = {&major, &minor};
    for (int i = 0; code == 0 && i < 2; ++i)
        code = cuda_check(d, d->cu.DeviceGetAttribute(values[i], attributes[i], d->device),
                          "DeviceGetAttribute");
    d->capability = major * 10 + minor;
    return code;
}

static int choose_device(cuda_device *d, const char *wanted) {
    int count = 0;
    int code = cuda_check(d, d->cu.DeviceGetCount(&count), "DeviceGetCount");
    if (code != 0) return code;
    for (int i = 0; i < count; ++i) {
        code = describe_device(d, i);
        if (code != 0) return code;
        /* The driver lists the fastest first. */
        if (gpu_is_wanted(wanted, (uint32_t)i, d->name)) return 0;
    }
    return count == 0 ? GPU_NO_DEVICE : GPU_UNKNOWN_DEVICE;
}

static int create_stream(cuda_device *d) {
    int code = cuda_check(d, d->cu.PrimaryCtxRetain(&d->context, d->device), "PrimaryCtxRetain");
    if (code != 0) return code;
    code = cuda_enter(d);
    if (code != 0) return code;
    code = cuda_check(d, d->cu.StreamCreate(&d->stream, CU_STREAM_NON_BLOCKING), "StreamCreate");
    cuda_leave(d);
    return code;
}

int cuda_open(cuda_device *d, const char *wanted) {
    memset(d, 0, sizeof *d);
    gpu_forget_failure();
    int code = load_library(d);
    if (code == 0) code = check_driver(d);
    if (code == 0) code = choose_device(d, wanted);
    if (code == 0) code = create_stream(d);
    if (code != 0) cuda_close(d);
    return code;
}

void cuda_close(cuda_device *d) {
    if (d->stream != NULL && cuda_enter(d) == 0) {
        d->cu.StreamDestroy(d->stream);
        cuda_leave(d);
    }
    if (d->context != NULL) d->cu.PrimaryCtxRelease(d->device);
    memset(d, 0, sizeof *d);
}

/* While another thread captures a graph, a driver refuses what might disturb that, and gives the graph
 * up, unless a thread says that it has nothing to do with it. */
static _Thread_local int capture_mode;

int cuda_enter(cuda_device *d) {
    int code = cuda_check(d, d->cu.CtxPushCurrent(d->context), "CtxPushCurrent");
    if (code != 0) return code;
    capture_mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    code = cuda_check(d, d->cu.ThreadExchangeCaptureMode(&capture_mode),
                      "ThreadExchangeStreamCaptureMode");
    CUcontext before;
    if (code != 0) d->cu.CtxPopCurrent(&before);
    return code;
}

void cuda_leave(cuda_device *d) {
    CUcontext before;
    d->cu.ThreadExchangeCaptureMode(&capture_mode);
    d->cu.CtxPopCurrent(&before);
}
