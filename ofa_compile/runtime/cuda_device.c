#define _POSIX_C_SOURCE 200809L

#include "cuda_device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* cuGraphInstantiateWithFlags came with this one. */
#define OLDEST_DRIVER 11040

static int code_of(CUresult result) {
    switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY: return GPU_OUT_OF_MEMORY;
    case CUDA_ERROR_STUB_LIBRARY: return GPU_NO_DRIVER;
    case CUDA_ERROR_SYSTEM_NOT_READY:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: return GPU_BROKEN_DRIVER;
    case CUDA_ERROR_DEVICE_UNAVAILABLE: return GPU_BUSY;
    case CUDA_ERROR_NO_DEVICE: return GPU_NO_DEVICE;
    case CUDA_ERROR_CALL_REQUIRES_NEWER_DRIVER:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    case CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE: return GPU_OLD_DRIVER;
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_INVALID_PTX:
    case CUDA_ERROR_JIT_COMPILER_NOT_FOUND:
    case CUDA_ERROR_JIT_COMPILATION_DISABLED: return GPU_NO_CODE;
    case CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: return GPU_UNSUITABLE;
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_UNKNOWN: return GPU_DEVICE_LOST;
    default:
        return result >= CUDA_ERROR_HARDWARE_STACK_ERROR && result <= CUDA_ERROR_LAUNCH_FAILED
                   ? GPU_DEVICE_LOST
                   : GPU_FAILED;
    }
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
    switch (code) {
    case GPU_NO_DRIVER:
        return "no CUDA driver here: libcuda.so.1 cannot be loaded; install NVIDIA's driver "
               "(Debian: nvidia-driver), and in a container pass the GPU through (--gpus all)";
    case GPU_NO_DEVICE:
        return "the CUDA driver finds no device; does nvidia-smi show one, and does "
               "CUDA_VISIBLE_DEVICES hide it?";
    case GPU_UNKNOWN_DEVICE:
        return "OFA_CUDA_DEVICE names no device of this machine; give a part of a name that "
               "nvidia-smi -L shows, or a number, 0 for the fastest unless CUDA_DEVICE_ORDER says "
               "otherwise";
    case GPU_UNSUITABLE:
        return "the CUDA device's limits are too small for this network; choose another device "
               "with OFA_CUDA_DEVICE, or compile for a smaller batch or resolution";
    case GPU_OUT_OF_MEMORY:
        return "the CUDA device is out of memory; close other programs that nvidia-smi shows";
    case GPU_DEVICE_LOST:
        return "the CUDA device was lost, by a fault or a reset; start this program anew, and if "
               "that does not help look for Xid lines in dmesg";
    case GPU_FAILED:
        return "the CUDA driver failed; update NVIDIA's driver (Debian: nvidia-driver), or choose "
               "another device with OFA_CUDA_DEVICE";
    case GPU_NO_TIMESTAMPS: return "the CUDA device cannot time single kernels";
    case GPU_OLD_DRIVER:
        return "the CUDA driver is too old for this bundle; install a newer one, or build the "
               "bundle with an older CUDA toolkit";
    case GPU_NO_CODE:
        return "the bundle has no machine code that this GPU's driver takes; add the GPU's "
               "architecture to toolchain.gpu_architectures of the target's file and compile "
               "again";
    case GPU_BROKEN_DRIVER:
        return "CUDA cannot start here: the driver's library and its kernel module do not match, "
               "or are not ready; does nvidia-smi work? Otherwise reboot, or install NVIDIA's "
               "driver again; where there is an NVSwitch, nvidia-fabricmanager must run";
    case GPU_BUSY:
        return "the CUDA device is taken: another process has it to itself, or its compute mode "
               "prohibits all use; close other programs that nvidia-smi shows, or choose another "
               "device with OFA_CUDA_DEVICE";
    default: return "unknown error";
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
    if (code == 0)
        code = cuda_check(d, d->cu.DriverGetVersion(&d->driver_version), "DriverGetVersion");
    if (code == 0 && d->driver_version < OLDEST_DRIVER)
        code = gpu_failed(GPU_OLD_DRIVER, "it knows CUDA %d.%d, at least 11.4 is needed",
                          d->driver_version / 1000, d->driver_version % 1000 / 10);
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

int cuda_enter(cuda_device *d) {
    return cuda_check(d, d->cu.CtxPushCurrent(d->context), "CtxPushCurrent");
}

void cuda_leave(cuda_device *d) {
    CUcontext before;
    d->cu.CtxPopCurrent(&before);
}
