/* What can go wrong on a GPU, whatever the driver's interface. */
#ifndef OFA_GPU_ERROR_H
#define OFA_GPU_ERROR_H

#include <stdbool.h>
#include <stdint.h>

/* Codes of ofa_session_error, from OFA_DEVICE_ERROR on: never renumber. */
enum {
    GPU_NO_DRIVER = 32,
    GPU_NO_DEVICE = 33,
    GPU_UNKNOWN_DEVICE = 34,
    GPU_UNSUITABLE = 35,
    GPU_OUT_OF_MEMORY = 36,
    GPU_DEVICE_LOST = 37,
    GPU_FAILED = 38,
    GPU_NO_TIMESTAMPS = 39,
    GPU_OLD_DRIVER = 40,
    GPU_NO_CODE = 41,
    GPU_NO_HALVES = 42,
    GPU_BROKEN_DRIVER = 43,
    GPU_BUSY = 44,
    GPU_HUNG = 45,
    GPU_NOT_STARTED = 46,
    GPU_FORKED = 47,
    GPU_KERNEL_FAULT = 48,
    GPU_CUT_OFF = 49,
    GPU_FAULTY = 50,
    GPU_NO_SERVER = 51,
    GPU_BAD_COMPAT = 52,
    GPU_NO_LICENCE = 53
};

/* Whether an open device answers nothing any more, so that the next run must open it again. */
bool gpu_is_lost(int code);

/* How long a device may say nothing before it counts as hung (GPU_HUNG), in milliseconds. A hung device
 * can be neither used nor given back: every call about it would wait as well. */
double gpu_patience_ms(void);

/* Remember the driver's words about a failure, for gpu_explain; return the code. */
int gpu_failed(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gpu_forget_failure(void);

/* A general text about a code, with what was remembered: behind it, but for a failure of the driver
 * before the advice, since there it is all that says what failed. */
const char *gpu_explain(int code, const char *text);

/* Whether a device is the one asked for: by its number, or by a part of its name. */
bool gpu_is_wanted(const char *wanted, uint32_t number, const char *name);

#endif
