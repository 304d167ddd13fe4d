/* Products on tensor cores, summed in float32: of halves (Turing and later), or of float32 rounded to
 * TF32 (Ampere and later). Both are the same in words of 32 bits, which hold two halves or one TF32:
 * an instruction multiplies 16 rows x 8 words by 8 words x 8 columns.
 *
 * A warp computes 16 GROUPS rows x 8 TILES columns. In which order the words of a step are summed is
 * free as long as both factors have it, so a thread takes two that lie side by side: 8 bytes of the map
 * in one load, of which the four threads of a row need 32 in a row. Weights lie in the order in which
 * a warp's threads take them (`kernels/gpu_matrix.py` packs them).
 *
 * A convolution is the same product, its depth the window's positions one after the other; a row of
 * the product finds its pixel of each. */
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

/* What differs between the types: `words` reads two words of the map, times their gates where there
 * are any; `read` and `write` are for the values of two neighbouring columns. */
struct ofa_float16_words {
    typedef __half value;
    enum { VALUES = 2 }; /* in a word */
    static OFA_INLINE uint2 words(const __half *at, const __half *gate) {
        uint2 pair = *(const uint2 *)at;
        if (gate == nullptr) return pair;
        uint2 by = *(const uint2 *)gate;
        return uint2{scaled(pair.x, by.x), scaled(pair.y, by.y)};
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

private:
    static OFA_INLINE uint scaled(uint a, uint b) {
        __half2 product = __hmul2(*(const __half2 *)&a, *(const __half2 *)&b);
        return *(const uint *)&product;
    }
};

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
struct ofa_float32_words {
    typedef float value;
    enum { VALUES = 1 };
    static OFA_INLINE uint2 words(const float *at, const float *gate) {
        float2 pair = *(const float2 *)at;
        if (gate != nullptr) {
            float2 by = *(const float2 *)gate;
            pair = float2{pair.x * by.x, pair.y * by.y};
        }
        return uint2{ofa_tf32(pair.x), ofa_tf32(pair.y)};
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

/* Where the channels lie that a row of a product needs: `at` is null outside the map. Of a pointwise
 * convolution, whose map is the product's left factor; IMAGE is the rows of an image, whose gate scales
 * its channels, 0 without gates. */
template <int CHANNELS, int IMAGE> struct ofa_rows {
    enum { DEPTH = CHANNELS, TAPS = 1, HAS_GATE = IMAGE != 0, HAS_BORDER = false };
    template <class V> static OFA_INLINE const V *at(const V *x, int row, int) {
        return x + (size_t)row * CHANNELS;
    }
    template <class V> static OFA_INLINE const V *gate(const V *gates, int row) {
        return IMAGE != 0 ? gates + row / (IMAGE != 0 ? IMAGE : 1) * CHANNELS : nullptr;
    }
};

/* Of a convolution with a window: the map's sizes, the result's, the window's, its steps, and the rows
 * and columns of zeros before the map. */
template <int CHANNELS, int HEIGHT, int WIDTH, int OUT_HEIGHT, int OUT_WIDTH, int WINDOW_HEIGHT,
          int WINDOW_WIDTH, int STEP_Y, int STEP_X, int TOP, int LEFT>
struct ofa_window {
    enum { DEPTH = CHANNELS, TAPS = WINDOW_HEIGHT * WINDOW_WIDTH, HAS_GATE = false,
           HAS_BORDER = true };
    template <class V> static OFA_INLINE const V *at(const V *x, int row, int tap) {
        int image = row / (OUT_HEIGHT * OUT_WIDTH);
        int y = row / OUT_WIDTH % OUT_HEIGHT * STEP_Y - TOP + tap / WINDOW_WIDTH;
        int column = row % OUT_WIDTH * STEP_X - LEFT + tap % WINDOW_WIDTH;
        if ((uint)y >= HEIGHT || (uint)column >= WIDTH) return nullptr;
        return x + (((size_t)image * HEIGHT + y) * WIDTH + column) * CHANNELS;
    }
    template <class V> static OFA_INLINE const V *gate(const V *, int) { return nullptr; }
};

/* Add up what SLICES warps have of the same sums; the first of them has the total then. */
template <int SLICES, int COUNT> OFA_WORD void ofa_add_slices(float *sums) {
    __shared__ float parts[SLICES - 1][COUNT][32];
    int slice = threadIdx.y, lane = threadIdx.x;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (slice > 0) parts[slice - 1][i][lane] = sums[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        for (int other = 0; slice == 0 && other < SLICES - 1; ++other)
            sums[i] += parts[other][i][lane];
}

/* y = activation(x w + bias (+ residual)) for y of ROWS x COLUMNS and x as MAP says; channels are a
 * multiple of 2 words, columns of 8. Launched as (32, warps) threads and (rows, columns) workgroups;
 * the warps of one share the steps of the same tile if SLICES is their number, else it is 1. */
template <class W, class MAP, int ROWS, int COLUMNS, int GROUPS, int TILES, int SLICES,
          int ACTIVATION, bool RESIDUAL>
OFA_WORD void ofa_product(const typename W::value *x, const typename W::value *residual,
                          const typename W::value *gates, const uint2 *weights,
                          const typename W::value *bias, typename W::value *y) {
    typedef const typename W::value *Values;
    constexpr int DEPTH = MAP::DEPTH, STEP = 8 * W::VALUES, STEPS = (DEPTH + STEP - 1) / STEP;
    int lane = threadIdx.x, group = lane / 4, mine = 2 * W::VALUES * (lane % 4);
    int slice = SLICES > 1 ? threadIdx.y : 0;
    int block = SLICES > 1 ? blockIdx.x : blockIdx.x * blockDim.y + threadIdx.y;
    int first = block * (16 * GROUPS) + group, tile = blockIdx.y * TILES;
    float sums[GROUPS][TILES][4] = {};
    for (int tap = 0; tap < MAP::TAPS; ++tap) {
        Values source[2 * GROUPS], gate[2 * GROUPS];
#pragma unroll
        for (int i = 0; i < 2 * GROUPS; ++i) {
            int row = min(first + 8 * i, ROWS - 1); /* rows beyond the last are not stored */
            source[i] = MAP::at(x, row, tap);
            gate[i] = MAP::gate(gates, row);
        }
        for (int turn = 0; turn < (STEPS + SLICES - 1) / SLICES; ++turn) {
            int step = turn * SLICES + slice, depth = step * STEP + mine;
            uint a[GROUPS][4];
#pragma unroll
            for (int i = 0; i < 2 * GROUPS; ++i) {
                uint2 pair = {0, 0};
                if ((DEPTH % (STEP * SLICES) == 0 || depth < DEPTH) &&
                    (!MAP::HAS_BORDER || source[i] != nullptr))
                    pair = W::words(source[i] + depth, MAP::HAS_GATE ? gate[i] + depth : nullptr);
                a[i / 2][i % 2] = pair.x;
                a[i / 2][i % 2 + 2] = pair.y;
            }
            if (STEPS % SLICES != 0) step = min(step, STEPS - 1); /* times the zeros above */
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                if (COLUMNS / 8 % TILES != 0 && tile + t >= COLUMNS / 8) continue;
                uint2 b = weights[(((tile + t) * MAP::TAPS + tap) * STEPS + step) * 32 + lane];
#pragma unroll
                for (int g = 0; g < GROUPS; ++g) W::multiply(sums[g][t], a[g], b);
            }
        }
    }
    if constexpr (SLICES > 1) {
        ofa_add_slices<SLICES, GROUPS * TILES * 4>(&sums[0][0][0]);
        if (slice > 0) return;
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
        if (COLUMNS / 8 % TILES != 0 && tile + t >= COLUMNS / 8) continue;
        int column = (tile + t) * 8 + 2 * (lane % 4);
        float2 shift = W::read(bias + column);
#pragma unroll
        for (int i = 0; i < 2 * GROUPS; ++i) {
            int row = first + 8 * i;
            if (row >= ROWS) continue;
            size_t at = (size_t)row * COLUMNS + column;
            float low = sums[i / 2][t][2 * (i % 2)] + shift.x;
            float high = sums[i / 2][t][2 * (i % 2) + 1] + shift.y;
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
