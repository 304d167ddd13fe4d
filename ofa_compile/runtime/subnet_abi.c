/* The public C interface. Compile with -DOFA_PREFIX=ofa_0123456789ab_ -fvisibility=hidden;
 * subnet_template.h is its header, with the prefix filled in. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ofa_network.h"
#include "ofa_session.h"

#ifndef OFA_PREFIX
#error "OFA_PREFIX is not defined"
#endif

#define OFA_PASTE(prefix, name) prefix##name
#define OFA_EXPAND(prefix, name) OFA_PASTE(prefix, name)
#define P(name) OFA_EXPAND(OFA_PREFIX, name)

#ifdef OFA_SUBNET_HEADER /* let the compiler check the header against the definitions */
#include OFA_SUBNET_HEADER
#endif

#ifdef __wasm__ /* a linker of WebAssembly takes visibility for less: kernels would be public */
#define OFA_TEXT(name) #name
#define OFA_NAME(name) OFA_TEXT(name)
#define OFA_PUBLIC(name) __attribute__((export_name(OFA_NAME(P(name)))))
#else
#define OFA_PUBLIC(name) __attribute__((visibility("default")))
#endif

OFA_PUBLIC(version) const char *P(version)(void);
OFA_PUBLIC(input_shape) int P(input_shape)(int64_t shape[4]);
OFA_PUBLIC(output_shape) int P(output_shape)(int64_t shape[2]);
OFA_PUBLIC(arena_bytes) size_t P(arena_bytes)(void);
OFA_PUBLIC(run) int P(run)(const float *input, float *output);
OFA_PUBLIC(set_threads) int P(set_threads)(int threads);
OFA_PUBLIC(time) int P(time)(const float *input, float *output, int warmup, int repeats,
                       double *milliseconds);
OFA_PUBLIC(num_steps) int P(num_steps)(void);
OFA_PUBLIC(time_steps) int P(time_steps)(const float *input, float *output, int warmup, int repeats,
                             double *milliseconds);
OFA_PUBLIC(time_device) int P(time_device)(const float *input, float *output, int warmup,
                                           int repeats, double *milliseconds);
OFA_PUBLIC(error) const char *P(error)(int code);

const char *P(version)(void) { return OFA_NETWORK.version; }

int P(input_shape)(int64_t shape[4]) {
    if (shape == NULL) return OFA_NULL_POINTER;
    memcpy(shape, OFA_NETWORK.input_shape, sizeof OFA_NETWORK.input_shape);
    return OFA_OK;
}

int P(output_shape)(int64_t shape[2]) {
    if (shape == NULL) return OFA_NULL_POINTER;
    memcpy(shape, OFA_NETWORK.output_shape, sizeof OFA_NETWORK.output_shape);
    return OFA_OK;
}

size_t P(arena_bytes)(void) { return OFA_NETWORK.arena_bytes; }

int P(run)(const float *input, float *output) { return ofa_session_run(input, output); }

int P(set_threads)(int threads) { return ofa_session_set_threads(threads); }

int P(time)(const float *input, float *output, int warmup, int repeats, double *milliseconds) {
    return ofa_session_time(input, output, warmup, repeats, milliseconds);
}

int P(num_steps)(void) { return OFA_NETWORK.num_steps; }

int P(time_steps)(const float *input, float *output, int warmup, int repeats,
                  double *milliseconds) {
    return ofa_session_time_steps(input, output, warmup, repeats, milliseconds);
}

int P(time_device)(const float *input, float *output, int warmup, int repeats,
                   double *milliseconds) {
    return ofa_session_time_device(input, output, warmup, repeats, milliseconds);
}

const char *P(error)(int code) { return ofa_session_error(code); }
