/* NVIDIA's float16 for a CPU, as far as our kernels use it: GCC's own, which rounds the same. */
#ifndef OFA_SOFTWARE_FP16_H
#define OFA_SOFTWARE_FP16_H

struct __half {
    _Float16 value;
    __half() = default;
    __half(float v) : value(v) {}
    __half(_Float16 v) : value(v) {}
    __half(int v) : value(v) {}
    operator float() const { return value; }
};
#define OFA_SCALAR(op) \
    static inline __half operator op(__half a, __half b) { return _Float16(a.value op b.value); }
OFA_SCALAR(+)
OFA_SCALAR(-)
OFA_SCALAR(*)
OFA_SCALAR(/)
#undef OFA_SCALAR

struct alignas(4) __half2 {
    __half x, y;
};
static inline __half2 __half2half2(__half v) { return {v, v}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline __half2 __floats2half2_rn(float a, float b) { return {a, b}; }
static inline float2 __half22float2(__half2 v) { return {v.x, v.y}; }
static inline __half __hmin(__half a, __half b) { return a.value < b.value ? a : b; }
static inline __half __hmax(__half a, __half b) { return a.value > b.value ? a : b; }
static inline __half2 __hadd2(__half2 a, __half2 b) { return {a.x + b.x, a.y + b.y}; }
static inline __half2 __hsub2(__half2 a, __half2 b) { return {a.x - b.x, a.y - b.y}; }
static inline __half2 __hmul2(__half2 a, __half2 b) { return {a.x * b.x, a.y * b.y}; }
static inline __half2 __h2div(__half2 a, __half2 b) { return {a.x / b.x, a.y / b.y}; }
static inline __half2 __hmin2(__half2 a, __half2 b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }
static inline __half2 __hmax2(__half2 a, __half2 b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }

/* mma.m16n8k16 and m16n8k8: every thread puts its words down, all wait, and each adds up its own four
 * sums in float32 (a GPU's order of additions is its own business). */
template <class Product>
static inline void ofa_multiply_words(float (&d)[4], const unsigned (&a)[4], uint2 b,
                                      Product product) {
    static unsigned left[8][32][4], right[8][32][2];
    unsigned warp = threadIdx.y, lane = threadIdx.x;
    memcpy(left[warp][lane], a, sizeof a);
    right[warp][lane][0] = b.x;
    right[warp][lane][1] = b.y;
    __syncthreads();
    for (int i = 0; i < 4; ++i) {
        unsigned row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        for (unsigned word = 0; word < 8; ++word)
            d[i] += product(left[warp][row % 8 * 4 + word % 4][word / 4 * 2 + row / 8],
                            right[warp][column * 4 + word % 4][word / 4]);
    }
    __syncthreads();
}

static inline void ofa_multiply_halves(float (&d)[4], const unsigned (&a)[4], uint2 b) {
    ofa_multiply_words(d, a, b, [](unsigned left, unsigned right) {
        __half2 x = with_bits<__half2>(left), w = with_bits<__half2>(right);
        return float(x.x) * float(w.x) + float(x.y) * float(w.y);
    });
}

/* The last 13 bits of a float32 are not there for a GPU. */
static inline void ofa_multiply_tf32(float (&d)[4], const unsigned (&a)[4], uint2 b) {
    ofa_multiply_words(d, a, b, [](unsigned left, unsigned right) {
        return with_bits<float>(left & ~0x1fffu) * with_bits<float>(right & ~0x1fffu);
    });
}

static inline unsigned ofa_tf32(float value) {
    return (with_bits<unsigned>(value) + 0x1000u) & ~0x1fffu;
}

#endif
