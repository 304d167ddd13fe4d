/* The words in which CUDA kernels are written: those of GLSL that our code generator uses. */
#ifndef OFA_CUDA_KERNEL_H
#define OFA_CUDA_KERNEL_H

#define OFA_INLINE __device__ __forceinline__
#define OFA_WORD static OFA_INLINE

typedef unsigned int uint;

/* Four values that one instruction loads or stores. */
struct alignas(16) vec4 {
    float x, y, z, w;
    vec4() = default;
    __device__ __forceinline__ explicit vec4(float v) : x(v), y(v), z(v), w(v) {}
    __device__ __forceinline__ vec4(float a, float b, float c, float d)
        : x(a), y(b), z(c), w(d) {}
};

#define OFA_OPERATOR(op)                                                                         \
    OFA_WORD vec4 operator op(vec4 a, vec4 b) {                                                  \
        return vec4(a.x op b.x, a.y op b.y, a.z op b.z, a.w op b.w);                             \
    }
OFA_OPERATOR(+)
OFA_OPERATOR(-)
OFA_OPERATOR(*)
OFA_OPERATOR(/)
#undef OFA_OPERATOR

/* CUDA itself has these for scalars. */
#define OFA_BINARY(name)                                                                         \
    OFA_WORD vec4 name(vec4 a, vec4 b) {                                                         \
        return vec4(name(a.x, b.x), name(a.y, b.y), name(a.z, b.z), name(a.w, b.w));             \
    }
OFA_BINARY(min)
OFA_BINARY(max)
#undef OFA_BINARY

OFA_WORD float uintBitsToFloat(uint bits) { return __uint_as_float(bits); }
OFA_WORD float intBitsToFloat(int bits) { return __int_as_float(bits); }
OFA_WORD int floatBitsToInt(float value) { return __float_as_int(value); }
OFA_WORD uint floatBitsToUint(float value) { return __float_as_uint(value); }

OFA_WORD float inversesqrt(float x) { return rsqrtf(x); }
OFA_WORD float roundEven(float x) { return rintf(x); }

/* Wait for all threads of the workgroup, and see what they wrote to shared memory. */
OFA_WORD void barrier() { __syncthreads(); }

#endif
