/* CUDA's C++ for a CPU: makes one kernel's text a shared library that runs its grid in loops.
 * Threads of a workgroup that wait for each other are fibers. Included before the text. */
#include <math.h> /* libstdc++'s, with exp(float) and the like */
#include <stdlib.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

struct Coordinates {
    unsigned x, y, z;
};
static Coordinates blockIdx, threadIdx, blockDim;
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
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline float __uint_as_float(unsigned bits) { return with_bits<float>(bits); }
static inline float __int_as_float(int bits) { return with_bits<float>(bits); }
static inline int __float_as_int(float value) { return with_bits<int>(value); }
static inline unsigned __float_as_uint(float value) { return with_bits<unsigned>(value); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

static void __syncthreads();
