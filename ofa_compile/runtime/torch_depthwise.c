/* Depthwise convolution for training: channels-last float32, kernel 3/5/7, stride 1/2, 'same' padding.
 *
 * One image and one block of LANES channels at a time is copied into a zero-padded scratch plane that
 * stays in the first- or second-level cache; after that no loop has a border or a channel tail, and each
 * kernel is a run of multiply-adds over whole vectors with its sums in registers:
 *
 *   forward         8 (then 4) neighbouring outputs per pass;
 *   backward-input  the forward with the kernel turned round; with stride 2, the even and the odd input
 *                   columns apart, each with the taps that reach them (no multiplication by inserted zeros);
 *   backward-weight one kernel row per pass (all three for kernel 3: three sums would wait on latency).
 *
 * Compiled on first use by ofa_compile/training/depthwise.py; plain C11 with GCC/Clang vector extensions.
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

/* Copy one channel block of an NHWC image into the inside of a zeroed plane. */
INLINE void fill_plane(const float *source, int channels, int count, int height, int width, vec *plane,
                       int pitch, int pad) {
    for (int y = 0; y < height; y++) {
        vec *row = plane + (size_t)(y + pad) * pitch + pad;
        const float *from = source + (size_t)y * width * channels;
        if (count == LANES)
            for (int x = 0; x < width; x++)
                row[x] = load_channels(from + (size_t)x * channels, LANES);
        else
            for (int x = 0; x < width; x++)
                row[x] = load_channels(from + (size_t)x * channels, count);
    }
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

/* TILE input gradients two columns apart, of column parity PX, for a stride of 2. */
INLINE void spread_tile(const int K, const int PX, const int TILE, const vec *plane, int pitch, int y,
                        int x, int pad, const vec *weight, float *target, int step, int valid, int count) {
    const int P = K / 2;
    vec sum[8];
    UNROLL for (int t = 0; t < TILE; t++) sum[t] = (vec){0};
    for (int ky = (y + P) & 1; ky < K; ky += 2) {
        const vec *row = plane + (size_t)((y + P - ky) / 2 + pad) * pitch + pad + x;
        if (y + P - ky < 0)
            row = plane + (size_t)(pad - (ky - y - P) / 2) * pitch + pad + x;
        UNROLL for (int kx = (PX + P) & 1; kx < K; kx += 2) {
            const vec w = weight[ky * K + kx];
            UNROLL for (int t = 0; t < TILE; t++) sum[t] += w * row[t + (PX + P - kx) / 2];
        }
    }
    UNROLL for (int t = 0; t < TILE; t++) if (t < valid)
        store_channels(target + (size_t)t * 2 * step, sum[t], count);
}

INLINE void spread_plane(const int K, const int PX, const vec *plane, int pitch, int pad,
                         const vec *weight, float *target, int channels, int count, int height, int width) {
    const int columns = (width - PX + 1) / 2;
    for (int y = 0; y < height; y++) {
        float *to = target + ((size_t)y * width + PX) * channels;
        int x = 0;
        for (; columns - x > 4; x += 8)
            spread_tile(K, PX, 8, plane, pitch, y, x, pad, weight, to + (size_t)2 * x * channels, channels,
                        columns - x, count);
        for (; x < columns; x += 4)
            spread_tile(K, PX, 4, plane, pitch, y, x, pad, weight, to + (size_t)2 * x * channels, channels,
                        columns - x, count);
    }
}

/* Add one image's share to ROWS rows of the weight gradient, starting at row `ky`. */
INLINE void weight_rows(const int K, const int S, const int ROWS, int ky, const vec *plane, int pitch,
                        const vec *grad, int grad_pitch, int height, int width, vec *total) {
    vec sum[9];
    UNROLL for (int i = 0; i < ROWS * K; i++) sum[i] = total[ky * K + i];
    for (int y = 0; y < height; y++) {
        const vec *g = grad + (size_t)y * grad_pitch;
        const vec *from = plane + (size_t)(y * S + ky) * pitch;
        for (int x = 0; x < width; x += 4) {
            UNROLL for (int t = 0; t < 4; t++) {
                const vec value = g[x + t];
                UNROLL for (int r = 0; r < ROWS; r++) {
                    UNROLL for (int kx = 0; kx < K; kx++)
                        sum[r * K + kx] += value * from[(size_t)r * pitch + (x + t) * S + kx];
                }
            }
        }
    }
    UNROLL for (int i = 0; i < ROWS * K; i++) total[ky * K + i] = sum[i];
}

INLINE void weight_plane(const int K, const int S, const vec *plane, int pitch, const vec *grad,
                         int grad_pitch, int height, int width, vec *total) {
    if (K == 3)
        weight_rows(K, S, 3, 0, plane, pitch, grad, grad_pitch, height, width, total);
    else
        for (int ky = 0; ky < K; ky++)
            weight_rows(K, S, 1, ky, plane, pitch, grad, grad_pitch, height, width, total);
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

/* `weight` is turned round for a stride of 1. */
static void run_backward_input(const shape *s, const vec *grad, const vec *weight, float *target,
                               int count) {
#define CALL(K, S)                                                                                        \
    case K * 10 + S:                                                                                      \
        if (S == 1) {                                                                                     \
            forward_plane(K, 1, grad, s->out_pitch, weight, (vec){0}, NONE, target, s->channels, count,   \
                          s->height, s->width);                                                           \
        } else {                                                                                          \
            spread_plane(K, 0, grad, s->out_pitch, s->out_pad, weight, target, s->channels, count,        \
                         s->height, s->width);                                                            \
            spread_plane(K, 1, grad, s->out_pitch, s->out_pad, weight, target, s->channels, count,        \
                         s->height, s->width);                                                            \
        }                                                                                                 \
        break;
    FOR_EACH_CASE(CALL)
#undef CALL
}

static void run_backward_weight(const shape *s, const vec *plane, const vec *grad, vec *total) {
    const vec *inside = grad + (size_t)s->out_pad * s->out_pitch + s->out_pad;
#define CALL(K, S)                                                                                        \
    case K * 10 + S:                                                                                      \
        weight_plane(K, S, plane, s->in_pitch, inside, s->out_pitch, s->out_height, s->out_width, total); \
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

/* (channels, k, k) -> per channel block, k*k vectors; `turned` reverses the taps. */
static void pack_weights(const shape *s, const float *weight, vec *packed, int turned) {
    const int taps = s->kernel * s->kernel;
    for (int c = 0; c < s->channels; c++)
        for (int i = 0; i < taps; i++)
            packed[(size_t)(c / LANES) * taps + (turned ? taps - 1 - i : i)][c % LANES] =
                weight[(size_t)c * taps + i];
}

/* sizes: images, channels, height, width, kernel, stride, threads. Returns 0, 1 (unsupported) or 2 (memory). */
int ofa_depthwise_forward(const int *sizes, const float *input, const float *weight, float *output) {
    shape described, *s = &described;
    if (describe(s, sizes))
        return 1;
    const int taps = s->kernel * s->kernel;
    vec *packed = new_vectors((size_t)s->blocks * taps);
    int failed = packed == NULL;
    if (!failed)
        pack_weights(s, weight, packed, 0);
#pragma omp parallel num_threads(s->threads) if (s->threads > 1) reduction(| : failed)
    {
        vec *plane = new_vectors((size_t)s->in_pitch * s->in_rows);
        failed |= plane == NULL || packed == NULL;
#pragma omp for schedule(static)
        for (int n = 0; n < s->images; n++)
            for (int b = 0; b < s->blocks && !failed; b++) {
                const int count = block_width(s, b);
                fill_plane(input + (size_t)n * s->height * s->width * s->channels + b * LANES, s->channels,
                           count, s->height, s->width, plane, s->in_pitch, s->kernel / 2);
                run_forward(s, plane, packed + (size_t)b * taps, (vec){0}, NONE,
                            output + (size_t)n * s->out_height * s->out_width * s->channels + b * LANES,
                            count);
            }
        free(plane);
    }
    free(packed);
    return failed ? 2 : 0;
}

/* Either gradient may be NULL when it is not wanted. Each thread sums its own weight gradient; the sums are
 * added in thread order, so a run repeats bit by bit for a given number of threads. */
int ofa_depthwise_backward(const int *sizes, const float *input, const float *weight,
                           const float *grad_output, float *grad_input, float *grad_weight) {
    shape described, *s = &described;
    if (describe(s, sizes))
        return 1;
    const int taps = s->kernel * s->kernel;
    const size_t packed_size = (size_t)s->blocks * taps;
    vec *packed = new_vectors(packed_size), *totals = new_vectors(packed_size * s->threads);
    int failed = packed == NULL || totals == NULL;
    if (!failed)
        pack_weights(s, weight, packed, s->stride == 1);
#pragma omp parallel for schedule(static, 1) num_threads(s->threads) if (s->threads > 1) reduction(| : failed)
    for (int part = 0; part < s->threads; part++) {
        vec *plane = new_vectors((size_t)s->in_pitch * s->in_rows);
        vec *grad = new_vectors((size_t)s->out_pitch * s->out_rows);
        failed |= plane == NULL || grad == NULL;
        const int first = (int)((long)s->images * part / s->threads);
        const int last = (int)((long)s->images * (part + 1) / s->threads);
        for (int n = first; n < last && !failed; n++)
            for (int b = 0; b < s->blocks; b++) {
                const int count = block_width(s, b);
                const size_t in_image = (size_t)n * s->height * s->width * s->channels + b * LANES;
                const size_t out_image = (size_t)n * s->out_height * s->out_width * s->channels + b * LANES;
                fill_plane(grad_output + out_image, s->channels, count, s->out_height, s->out_width, grad,
                           s->out_pitch, s->out_pad);
                if (grad_input)
                    run_backward_input(s, grad, packed + (size_t)b * taps, grad_input + in_image, count);
                if (grad_weight) {
                    fill_plane(input + in_image, s->channels, count, s->height, s->width, plane,
                               s->in_pitch, s->kernel / 2);
                    run_backward_weight(s, plane, grad,
                                        totals + packed_size * part + (size_t)b * taps);
                }
            }
        free(plane);
        free(grad);
    }
    if (!failed && grad_weight)
        for (int c = 0; c < s->channels; c++)
            for (int i = 0; i < taps; i++) {
                float sum = 0.0f;
                for (int part = 0; part < s->threads; part++)
                    sum += totals[packed_size * part + (size_t)(c / LANES) * taps + i][c % LANES];
                grad_weight[(size_t)c * taps + i] = sum;
            }
    free(packed);
    free(totals);
    return failed ? 2 : 0;
}
