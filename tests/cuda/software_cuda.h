/* CUDA's C++ for a CPU: makes one kernel's text a shared library that runs its grid in loops.
 * Threads of a workgroup that wait for each other are fibers. Included before the text. */
#include <cmath>
#include <cstdint>
#include <cstring>

struct Coordinates {
    unsigned x, y, z;
};
static Coordinates blockIdx, threadIdx;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }

static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

static void __syncthreads();
