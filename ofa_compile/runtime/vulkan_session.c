/* ofa_session.h for a network that runs on a Vulkan device. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ofa_network.h"
#include "ofa_session.h"
#include "vulkan_device.h"
#include "vulkan_program.h"

static struct {
    pthread_mutex_t lock;
    bool is_open;
    pid_t owner; /* a forked child cannot use its parent's device */
    vulkan_device device;
    vulkan_program program;
} session = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void close_device(void) {
    if (session.is_open && session.owner == getpid()) {
        vulkan_program_destroy(&session.program, &session.device);
        vulkan_close(&session.device);
    }
    session.is_open = false;
}

static int prepare(void) {
    if (session.is_open && session.owner == getpid()) return OFA_OK;
    session.is_open = false;
    int code = vulkan_open(&session.device);
    if (code != 0) return code;
    code = vulkan_program_create(&session.program, &session.device);
    if (code != 0) {
        vulkan_close(&session.device);
        return code;
    }
    session.is_open = true;
    session.owner = getpid();
    return OFA_OK;
}

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int check_buffers(const void *input, const void *output) {
    if (input == NULL || output == NULL) return OFA_NULL_POINTER;
    if ((uintptr_t)input % sizeof(float) != 0 || (uintptr_t)output % sizeof(float) != 0)
        return OFA_MISALIGNED;
    return OFA_OK;
}

static int run_locked(const float *input, float *output, int warmup, int repeats,
                      double *milliseconds, double *step_milliseconds) {
    int code = prepare();
    for (int i = -warmup; code == OFA_OK && i < repeats; ++i) {
        double start = now_ms();
        code = vulkan_program_run(&session.program, &session.device, input, output,
                                  step_milliseconds);
        if (code == OFA_OK && milliseconds != NULL && i >= 0) milliseconds[i] = now_ms() - start;
        if (step_milliseconds != NULL && i >= 0) step_milliseconds += OFA_NETWORK.num_steps;
    }
    /* The next call starts with a fresh device: this one answers nothing any more. */
    if (code == VULKAN_DEVICE_LOST) close_device();
    return code;
}

static int run_checked(const float *input, float *output, int warmup, int repeats,
                       double *milliseconds, double *step_milliseconds) {
    int code = check_buffers(input, output);
    if (code != OFA_OK) return code;
    if (warmup < 0 || repeats < 1) return OFA_BAD_ARGUMENT;
    pthread_mutex_lock(&session.lock);
    code = run_locked(input, output, warmup, repeats, milliseconds, step_milliseconds);
    pthread_mutex_unlock(&session.lock);
    return code;
}

int ofa_session_run(const float *input, float *output) {
    return run_checked(input, output, 0, 1, NULL, NULL);
}

int ofa_session_time(const float *input, float *output, int warmup, int repeats,
                     double *milliseconds) {
    if (milliseconds == NULL) return OFA_NULL_POINTER;
    return run_checked(input, output, warmup, repeats, milliseconds, NULL);
}

int ofa_session_time_steps(const float *input, float *output, int warmup, int repeats,
                           double *milliseconds) {
    if (milliseconds == NULL) return OFA_NULL_POINTER;
    return run_checked(input, output, warmup, repeats, NULL, milliseconds);
}

/* The device brings its own threads. */
int ofa_session_set_threads(int threads) {
    return threads < 1 || threads > OFA_MAX_THREADS ? OFA_BAD_ARGUMENT : OFA_OK;
}

static const char *explain(int code) {
    switch (code) {
    case OFA_OK: return "success";
    case OFA_NULL_POINTER: return "a pointer is NULL";
    case OFA_MISALIGNED: return "a pointer is not aligned to 4 bytes";
    case OFA_OUT_OF_MEMORY: return "out of memory";
    case OFA_BAD_ARGUMENT: return "an argument is out of range";
    case VULKAN_NO_LOADER:
        return "no Vulkan here: libvulkan.so.1 cannot be loaded; install the Vulkan loader "
               "(Debian: libvulkan1) and your GPU's driver";
    case VULKAN_NO_DEVICE:
        return "Vulkan finds no device that computes with version 1.1 or later; install your "
               "GPU's driver (Debian: mesa-vulkan-drivers)";
    case VULKAN_UNKNOWN_DEVICE:
        return "OFA_VULKAN_DEVICE names no device of this machine; give a number or a part of a "
               "name that vulkaninfo --summary shows";
    case VULKAN_UNSUITABLE: return "the Vulkan device's limits are too small for this network";
    case VULKAN_OUT_OF_MEMORY:
        return "the Vulkan device is out of memory; close other programs that use it";
    case VULKAN_DEVICE_LOST:
        return "the Vulkan device was lost, by a hang or a reset; the next run opens it again";
    case VULKAN_FAILED: return "the Vulkan driver failed";
    case VULKAN_NO_TIMESTAMPS: return "the Vulkan device cannot time single kernels";
    default: return "unknown error";
    }
}

const char *ofa_session_error(int code) {
    static _Thread_local char text[256];
    const char *call = vulkan_last_call();
    if (code < VULKAN_UNSUITABLE || code > VULKAN_FAILED || *call == '\0') return explain(code);
    snprintf(text, sizeof text, "%s (%s)", explain(code), call);
    return text;
}

/* dlclose unmaps the code: give the device back before. */
__attribute__((destructor)) static void close_session(void) {
    if (pthread_mutex_trylock(&session.lock) != 0) return;
    close_device();
    pthread_mutex_unlock(&session.lock);
}
