/* A product of halves on tensor cores (Turing and later), summed in float32.
 *
 * A warp computes 16 rows x 8 TILES columns. Rows of the map are read as they lie, every 32 bytes by
 * the four threads that need them; weights lie in the order in which a warp's threads take them
 * (`kernels/gpu_matrix.py` packs them), so that one load of 8 bytes is a thread's share of a step. */
#ifndef OFA_CUDA_MATRIX_H
#define OFA_CUDA_MATRIX_H

#include "cuda_half.h"

#ifndef OFA_SOFTWARE
/* D += A B for A of 16 x 16, B of 16 x 8; fragments as PTX's m16n8k16 has them. An m16n8k8, which
 * is all that Turing has, takes the first half of each or the second. */
OFA_WORD void ofa_multiply(float (&d)[4], const uint (&a)[4], uint2 b) {
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

/* Two neighbouring halves as the bits of a register, and multiplied by others where there is a
 * gate. */
OFA_WORD uint ofa_pair(const __half *at, const __half *gate) {
    __half2 pair = *(const __half2 *)at;
    if (gate != nullptr) pair = __hmul2(pair, *(const __half2 *)gate);
    return *(const uint *)&pair;
}

/* y = activation(x w + bias (+ residual)) for x of ROWS x DEPTH and y of ROWS x COLUMNS, both
 * multiples of 8 but for the rows. IMAGE is the rows of an image, whose gate scales its columns; 0
 * without gates. Launched as (32, warps) threads and (rows, columns) workgroups. */
template <int ROWS, int DEPTH, int COLUMNS, int TILES, int ACTIVATION, int IMAGE, bool RESIDUAL>
OFA_WORD void ofa_product(const __half *x, const __half *residual, const __half *gates,
                          const uint2 *weights, const __half *bias, __half *y) {
    constexpr int STEPS = (DEPTH + 15) / 16;
    int lane = threadIdx.x, group = lane / 4, member = lane % 4;
    int first = (blockIdx.x * blockDim.y + threadIdx.y) * 16;
    int tile = blockIdx.y * TILES;
    const __half *source[2], *gate[2] = {nullptr, nullptr};
    for (int i = 0; i < 2; ++i) {
        int row = min(first + group + 8 * i, ROWS - 1); /* rows beyond the last are not stored */
        source[i] = x + (size_t)row * DEPTH + 2 * member;
        if (IMAGE != 0) gate[i] = gates + row / (IMAGE != 0 ? IMAGE : 1) * DEPTH + 2 * member;
    }
    float sums[TILES][4] = {};
    for (int step = 0; step < STEPS; ++step) {
        uint a[4];
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            int depth = step * 16 + part / 2 * 8, i = part % 2;
            bool is_inside = DEPTH % 16 == 0 || depth < DEPTH;
            a[part] = is_inside ? ofa_pair(source[i] + depth,
                                           IMAGE != 0 ? gate[i] + depth : nullptr)
                                : 0u;
        }
#pragma unroll
        for (int t = 0; t < TILES; ++t)
            if (COLUMNS / 8 % TILES == 0 || tile + t < COLUMNS / 8)
                ofa_multiply(sums[t], a, weights[((tile + t) * STEPS + step) * 32 + lane]);
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
        if (COLUMNS / 8 % TILES != 0 && tile + t >= COLUMNS / 8) continue;
        int column = (tile + t) * 8 + 2 * member;
        float2 shift = __half22float2(*(const __half2 *)(bias + column));
        for (int i = 0; i < 2; ++i) {
            int row = first + group + 8 * i;
            if (row >= ROWS) continue;
            size_t at = (size_t)row * COLUMNS + column;
            float low = sums[t][2 * i] + shift.x, high = sums[t][2 * i + 1] + shift.y;
            if (RESIDUAL) {
                float2 more = __half22float2(*(const __half2 *)(residual + at));
                low += more.x;
                high += more.y;
            }
            *(__half2 *)(y + at) =
                __floats2half2_rn(ofa_activate<ACTIVATION>(low), ofa_activate<ACTIVATION>(high));
        }
    }
}

#endif
