#define _POSIX_C_SOURCE 200809L

#include "ofa_call.h"

#include <stdint.h>
#include <time.h>

#include "ofa_session.h"

double ofa_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

size_t ofa_input_bytes(const ofa_network *network) {
    const int64_t *s = network->input_shape;
    return (size_t)(s[0] * s[1] * s[2] * s[3]) * sizeof(float);
}

size_t ofa_output_bytes(const ofa_network *network) {
    const int64_t *s = network->output_shape;
    return (size_t)(s[0] * s[1]) * sizeof(float);
}

int ofa_check_run(const void *input, const void *output) {
    if (input == NULL || output == NULL) return OFA_NULL_POINTER;
    if ((uintptr_t)input % sizeof(float) != 0 || (uintptr_t)output % sizeof(float) != 0)
        return OFA_MISALIGNED;
    return OFA_OK;
}

int ofa_check_timing(const void *input, const void *output, int warmup, int repeats,
                     const double *milliseconds) {
    int code = ofa_check_run(input, output);
    if (code != OFA_OK) return code;
    if (milliseconds == NULL) return OFA_NULL_POINTER;
    return warmup < 0 || repeats < 1 ? OFA_BAD_ARGUMENT : OFA_OK;
}

const char *ofa_explain(int code) {
    switch (code) {
    case OFA_OK: return "success";
    case OFA_NULL_POINTER: return "a pointer is NULL";
    case OFA_MISALIGNED: return "a pointer is not aligned to 4 bytes";
    case OFA_OUT_OF_MEMORY: return "out of memory";
    case OFA_BAD_ARGUMENT: return "an argument is out of range";
    case OFA_NO_THREADS: return "threads cannot be started";
    default: return NULL;
    }
}
