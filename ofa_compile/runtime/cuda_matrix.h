/* A product on tensor cores, summed in float32: of halves (Turing and later), or of float32 rounded
 * to TF32 (Ampere and later). Both are the same in words of 32 bits, which hold two halves or one
 * TF32: an instruction multiplies 16 rows x 8 words by 8 words x 8 columns.
 *
 * A warp computes 16 rows x 8 TILES columns. Rows of the map are read as they lie, every 32 bytes by
 * the four threads that need them; weights lie in the order in which a warp's threads take them
 * (`kernels/gpu_matrix.py` packs them), so that one load of 8 bytes is a thread's share of a step. */
#ifndef OFA_CUDA_MATRIX_H
#define OFA_CUDA_MATRIX_H

#include "cuda_half.h"

#ifndef OFA_SOFTWARE
/* D += A B; fragments as PTX's m16n8k16 of halves has them. An m16n8k8, which is all that Turing has,
 * takes the first half of each or the second. */
OFA_WORD void ofa_multiply_halves(float (&d)[4], const uint (&a)[4], uint2 b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b.x));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2]), "r"(a[3]), "r"(b.y));
#endif
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
/* The same for PTX's m16n8k8 of TF32. */
OFA_WORD void ofa_multiply_tf32(float (&d)[4], const uint (&a)[4], uint2 b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}

/* The nearest TF32; the instruction above would cut the other bits off. */
OFA_WORD uint ofa_tf32(float value) {
    uint bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}
#endif
#endif

enum { OFA_NONE, OFA_RELU, OFA_RELU6, OFA_HSIGMOID, OFA_HSWISH };

template <int ACTIVATION>
OFA_WORD float ofa_activate(float x) {
    if (ACTIVATION == OFA_RELU) return max(x, 0.0f);
    if (ACTIVATION == OFA_RELU6) return min(max(x, 0.0f), 6.0f);
    float gate = min(max(x * (1.0f / 6.0f) + 0.5f, 0.0f), 1.0f);
    if (ACTIVATION == OFA_HSIGMOID) return gate;
    if (ACTIVATION == OFA_HSWISH) return x * gate;
    return x;
}

/* What differs between the types: `word` reads a word of the map, times its gate where there is one;
 * `read` and `write` are for the values of two neighbouring columns. */
struct ofa_float16_words {
    typedef __half value;
    enum { VALUES = 2 }; /* in a word */
    static OFA_INLINE uint word(const __half *at, const __half *gate) {
        __half2 pair = *(const __half2 *)at;
        if (gate != nullptr) pair = __hmul2(pair, *(const __half2 *)gate);
        return *(const uint *)&pair;
    }
    static OFA_INLINE void multiply(float (&d)[4], const uint (&a)[4], uint2 b) {
        ofa_multiply_halves(d, a, b);
    }
    static OFA_INLINE float2 read(const __half *at) {
        return __half22float2(*(const __half2 *)at);
    }
    static OFA_INLINE void write(__half *at, float low, float high) {
        *(__half2 *)at = __floats2half2_rn(low, high);
    }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
struct ofa_float32_words {
    typedef float value;
    enum { VALUES = 1 };
    static OFA_INLINE uint word(const float *at, const float *gate) {
        return ofa_tf32(gate != nullptr ? *at * *gate : *at);
    }
    static OFA_INLINE void multiply(float (&d)[4], const uint (&a)[4], uint2 b) {
        ofa_multiply_tf32(d, a, b);
    }
    static OFA_INLINE float2 read(const float *at) { return *(const float2 *)at; }
    static OFA_INLINE void write(float *at, float low, float high) {
        *(float2 *)at = float2{low, high};
    }
};
#endif

/* y = activation(x w + bias (+ residual)) for x of ROWS x DEPTH and y of ROWS x COLUMNS, the
 * former a multiple of 4 words, the latter of 8. IMAGE is the rows of an image, whose gate scales its columns; 0
 * without gates. Launched as (32, warps) threads and (rows, columns) workgroups. */
template <class W, int ROWS, int DEPTH, int COLUMNS, int TILES, int ACTIVATION, int IMAGE, bool RESIDUAL>
OFA_WORD void ofa_product(const typename W::value *x, const typename W::value *residual,
                          const typename W::value *gates, const uint2 *weights,
                          const typename W::value *bias, typename W::value *y) {
    constexpr int STEP = 8 * W::VALUES, STEPS = (DEPTH + STEP - 1) / STEP;
    int lane = threadIdx.x, group = lane / 4, member = lane % 4;
    int first = (blockIdx.x * blockDim.y + threadIdx.y) * 16;
    int tile = blockIdx.y * TILES;
    const typename W::value *source[2], *gate[2] = {nullptr, nullptr};
    for (int i = 0; i < 2; ++i) {
        int row = min(first + group + 8 * i, ROWS - 1); /* rows beyond the last are not stored */
        source[i] = x + (size_t)row * DEPTH + W::VALUES * member;
        if (IMAGE != 0)
            gate[i] = gates + row / (IMAGE != 0 ? IMAGE : 1) * DEPTH + W::VALUES * member;
    }
    float sums[TILES][4] = {};
    for (int step = 0; step < STEPS; ++step) {
        uint a[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            int depth = step * STEP + part / 2 * (STEP / 2), i = part % 2;
            bool is_inside = DEPTH % STEP == 0 || depth < DEPTH;
            a[part] = is_inside ? W::word(source[i] + depth,
                                          IMAGE != 0 ? gate[i] + depth : nullptr)
                                : 0u;
        }
#pragma unroll
        for (int t = 0; t < TILES; ++t)
            if (COLUMNS / 8 % TILES == 0 || tile + t < COLUMNS / 8)
                W::multiply(sums[t], a, weights[((tile + t) * STEPS + step) * 32 + lane]);
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
        if (COLUMNS / 8 % TILES != 0 && tile + t >= COLUMNS / 8) continue;
        int column = (tile + t) * 8 + 2 * member;
        float2 shift = W::read(bias + column);
        for (int i = 0; i < 2; ++i) {
            int row = first + group + 8 * i;
            if (row >= ROWS) continue;
            size_t at = (size_t)row * COLUMNS + column;
            float low = sums[t][2 * i] + shift.x, high = sums[t][2 * i + 1] + shift.y;
            if (RESIDUAL) {
                float2 more = W::read(residual + at);
                low += more.x;
                high += more.y;
            }
            W::write(y + at, ofa_activate<ACTIVATION>(low), ofa_activate<ACTIVATION>(high));
        }
    }
}

#endif
