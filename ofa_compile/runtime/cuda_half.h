/* What cuda_kernel.h has, for float16: scalars and vectors of 4, computed as two pairs. */
#ifndef OFA_CUDA_HALF_H
#define OFA_CUDA_HALF_H

#include <cuda_fp16.h>

#include "cuda_kernel.h"

typedef __half float16_t;

struct alignas(8) f16vec4 {
    __half2 low, high;
    f16vec4() = default;
    __device__ __forceinline__ f16vec4(__half2 a, __half2 b) : low(a), high(b) {}
    __device__ __forceinline__ explicit f16vec4(__half v)
        : low(__half2half2(v)), high(__half2half2(v)) {}
    __device__ __forceinline__ explicit f16vec4(vec4 v)
        : low(__floats2half2_rn(v.x, v.y)), high(__floats2half2_rn(v.z, v.w)) {}
    __device__ __forceinline__ explicit operator vec4() const {
        float2 a = __half22float2(low), b = __half22float2(high);
        return vec4(a.x, a.y, b.x, b.y);
    }
    __device__ __forceinline__ __half x_() const { return __low2half(low); }
    __device__ __forceinline__ __half y_() const { return __high2half(low); }
    __device__ __forceinline__ __half z_() const { return __low2half(high); }
    __device__ __forceinline__ __half w_() const { return __high2half(high); }
};

#define OFA_OPERATOR(op, name)                                                                   \
    OFA_WORD f16vec4 operator op(f16vec4 a, f16vec4 b) {                                         \
        return f16vec4(name(a.low, b.low), name(a.high, b.high));                                \
    }
OFA_OPERATOR(+, __hadd2)
OFA_OPERATOR(-, __hsub2)
OFA_OPERATOR(*, __hmul2)
OFA_OPERATOR(/, __h2div)
#undef OFA_OPERATOR

OFA_WORD f16vec4 min(f16vec4 a, f16vec4 b) {
    return f16vec4(__hmin2(a.low, b.low), __hmin2(a.high, b.high));
}
OFA_WORD f16vec4 max(f16vec4 a, f16vec4 b) {
    return f16vec4(__hmax2(a.low, b.low), __hmax2(a.high, b.high));
}
OFA_WORD __half min(__half a, __half b) { return __hmin(a, b); }
OFA_WORD __half max(__half a, __half b) { return __hmax(a, b); }

#endif
