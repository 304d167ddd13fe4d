/* CUDA's C++ for a CPU: makes one kernel's text a function of a shared library, which the driver
 * beside this calls once for every thread. Included before the text; small, since that is parsed for
 * every kernel. */
#include <math.h> /* libstdc++'s, with exp(float) and the like */
#include <stddef.h>
#include <string.h>

#include "software_grid.h"

static Place place;
#define blockIdx place.block
#define threadIdx place.thread
#define blockDim place.threads
static inline void __syncthreads() { place.wait(); }

struct float2 {
    float x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
#define OFA_SOFTWARE

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

template <class To, class From>
static inline To with_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned bits) { return with_bits<float>(bits); }
static inline float __int_as_float(int bits) { return with_bits<float>(bits); }
static inline int __float_as_int(float value) { return with_bits<int>(value); }
static inline unsigned __float_as_uint(float value) { return with_bits<unsigned>(value); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
