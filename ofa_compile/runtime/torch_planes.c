/* Depthwise convolution of one zero-padded plane: channels-last float32, kernel 3/5/7, stride 1/2.
 *
 * One image and one block of LANES channels at a time lies in a scratch plane that stays in the first- or
 * second-level cache; after that no loop has a border or a channel tail, and each kernel is a run of
 * multiply-adds over whole vectors with its sums in registers: 8 (then 4) neighbouring outputs per pass.
 *
 * Comes first in the translation units of torch_depthwise.c and torch_block.c; plain C11 with GCC/Clang
 * vector extensions.
 */
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int mask __attribute__((vector_size(LANES * 4)));

enum { NONE, RELU, RELU6, HSWISH };

INLINE vec at_least_zero(vec value) { return (vec)((mask)value & (value > 0.0f)); }

INLINE vec within_zero_and_six(vec value) {
    const mask small = value < 6.0f;
    const vec six = (vec){0} + 6.0f;
    return at_least_zero((vec)(((mask)value & small) | ((mask)six & ~small)));
}

INLINE vec activate(int kind, vec value) {
    if (kind == HSWISH)
        return value * within_zero_and_six(value + 3.0f) * (1.0f / 6.0f);
    if (kind == RELU)
        return at_least_zero(value);
    return kind == RELU6 ? within_zero_and_six(value) : value;
}

typedef struct {
    int images, channels, height, width; /* of the input */
    int kernel, stride, threads;
    int out_height, out_width, blocks;
    int in_pitch, in_rows;   /* padded input plane, in vectors */
    int out_pitch, out_rows; /* padded gradient plane */
    int out_pad;
} shape;

INLINE vec load_channels(const float *source, int count) {
    vec value;
    if (count == LANES) {
        memcpy(&value, source, sizeof(vec));
    } else {
        value = (vec){0};
        if (LANES == 16 && count == 8)
            memcpy(&value, source, 32);
        else
            for (int i = 0; i < count; i++)
                value[i] = source[i];
    }
    return value;
}

INLINE void store_channels(float *target, vec value, int count) {
    if (count == LANES)
        memcpy(target, &value, sizeof(vec));
    else if (LANES == 16 && count == 8)
        memcpy(target, &value, 32);
    else
        for (int i = 0; i < count; i++)
            target[i] = value[i];
}

/* TILE neighbouring outputs of a row: sum over the kernel of weight x plane, plus `bias`, activated. */
INLINE void forward_tile(const int K, const int S, const int TILE, const vec *corner, int pitch,
                         const vec *weight, vec bias, int kind, float *target, int step, int valid,
                         int count) {
    vec sum[8];
    UNROLL for (int t = 0; t < TILE; t++) sum[t] = bias;
    for (int ky = 0; ky < K; ky++) {
        const vec *row = corner + (size_t)ky * pitch;
        UNROLL for (int kx = 0; kx < K; kx++) {
            const vec w = weight[ky * K + kx];
            UNROLL for (int t = 0; t < TILE; t++) sum[t] += w * row[t * S + kx];
        }
    }
    if (kind != NONE)
        UNROLL for (int t = 0; t < TILE; t++) sum[t] = activate(kind, sum[t]);
    if (valid >= TILE && count == LANES) {
        UNROLL for (int t = 0; t < TILE; t++) store_channels(target + (size_t)t * step, sum[t], LANES);
    } else {
        UNROLL for (int t = 0; t < TILE; t++) if (t < valid)
            store_channels(target + (size_t)t * step, sum[t], count);
    }
}

INLINE void forward_plane(const int K, const int S, const vec *plane, int pitch, const vec *weight, vec bias,
                          int kind, float *target, int channels, int count, int height, int width) {
    for (int y = 0; y < height; y++) {
        const vec *row = plane + (size_t)y * S * pitch;
        float *to = target + (size_t)y * width * channels;
        int x = 0;
        for (; width - x > 4; x += 8)
            forward_tile(K, S, 8, row + x * S, pitch, weight, bias, kind, to + (size_t)x * channels,
                         channels, width - x, count);
        for (; x < width; x += 4)
            forward_tile(K, S, 4, row + x * S, pitch, weight, bias, kind, to + (size_t)x * channels,
                         channels, width - x, count);
    }
}

#define FOR_EACH_CASE(CALL)                                                                               \
    switch (s->kernel * 10 + s->stride) {                                                                 \
        CALL(3, 1) CALL(3, 2) CALL(5, 1) CALL(5, 2) CALL(7, 1) CALL(7, 2)                                 \
    }

static void run_forward(const shape *s, const vec *plane, const vec *weight, vec bias, int kind,
                        float *target, int count) {
#define CALL(K, S)                                                                                        \
    case K * 10 + S:                                                                                      \
        forward_plane(K, S, plane, s->in_pitch, weight, bias, kind, target, s->channels, count,           \
                      s->out_height, s->out_width);                                                       \
        break;
    FOR_EACH_CASE(CALL)
#undef CALL
}

static int describe(shape *s, const int *sizes) {
    s->images = sizes[0], s->channels = sizes[1], s->height = sizes[2], s->width = sizes[3];
    s->kernel = sizes[4], s->stride = sizes[5], s->threads = sizes[6] < 1 ? 1 : sizes[6];
    if ((s->kernel != 3 && s->kernel != 5 && s->kernel != 7) || s->stride < 1 || s->stride > 2)
        return 1;
    s->out_height = (s->height - 1) / s->stride + 1;
    s->out_width = (s->width - 1) / s->stride + 1;
    s->blocks = (s->channels + LANES - 1) / LANES;
    /* Tiles may run up to 7 columns past the end: they read zeros and are not stored. */
    s->in_pitch = (s->out_width + 8) * s->stride + s->kernel;
    s->in_rows = (s->out_height - 1) * s->stride + s->kernel + 1;
    s->out_pad = s->stride == 1 ? s->kernel / 2 : 2;
    s->out_pitch = s->out_width + 2 * s->out_pad + 12;
    s->out_rows = s->out_height + 2 * s->out_pad + 1;
    return 0;
}

static vec *new_vectors(size_t count) {
    const size_t bytes = (count * sizeof(vec) + 63) / 64 * 64;
    vec *memory = aligned_alloc(64, bytes);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

INLINE int block_width(const shape *s, int block) {
    const int left = s->channels - block * LANES;
    return left < LANES ? left : LANES;
}
