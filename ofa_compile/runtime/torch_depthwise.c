/* Depthwise convolution for training: channels-last float32, kernel 3/5/7, stride 1/2, 'same' padding.
 *
 * Each image is copied into padded planes, a block of channels at a time (torch_planes.c, which comes first
 * in the translation unit). Beside the forward:
 *
 *   backward-input  the forward with the kernel turned round; with stride 2, the even and the odd input
 *                   columns apart, each with the taps that reach them (no multiplication by inserted zeros);
 *   backward-weight one kernel row per pass (all three for kernel 3: three sums would wait on latency).
 *
 * Compiled on first use by ofa_compile/training/depthwise.py.
 */
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
