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
    GPU_BUSY = 44
};

/* Remember the driver's words about a failure, for gpu_explain; return the code. */
int gpu_failed(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gpu_forget_failure(void);

/* A general text about a code, with what was remembered: behind it, but for a failure of the driver
 * before the advice, since there it is all that says what failed. */
const char *gpu_explain(int code, const char *text);

/* Whether a device is the one asked for: by its number, or by a part of its name. */
bool gpu_is_wanted(const char *wanted, uint32_t number, const char *name);

#endif
