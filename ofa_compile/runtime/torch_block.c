/* Inference of inverted residual blocks over many images: channels-last float32, batch norm already folded.
 *
 * Compiled behind torch_planes.c, whose vectors and planes it uses. The expansion writes straight into
 * the zero-padded planes that the depthwise convolution reads, two channel blocks at a time, so that the
 * widest tensor of a block never leaves the cache.
 */
#define PAIR (2 * LANES) /* outputs per pass of a matrix product: two sums share each loaded input */

int ofa_block_lanes(void) { return LANES; }

/* sums[r * V + v] = bias[v] + row r of x times output vector v of a packed pair. */
INLINE void multiply_tile(const int R, const int V, const float *x, int depth, const vec *packed,
                          const vec *bias, vec *sums) {
    vec total[16];
    UNROLL for (int i = 0; i < R * V; i++) total[i] = bias[i % V];
    for (int k = 0; k < depth; k++) {
        UNROLL for (int r = 0; r < R; r++) {
            const float value = x[(size_t)r * depth + k];
            UNROLL for (int v = 0; v < V; v++) total[r * V + v] += packed[2 * k + v] * value;
        }
    }
    UNROLL for (int i = 0; i < R * V; i++) sums[i] = total[i];
}

INLINE int multiply_rows(const int V, const float *x, long left, int depth, const vec *packed,
                         const vec *bias, vec *sums) {
    if (left >= 16 / V) {
        multiply_tile(16 / V, V, x, depth, packed, bias, sums);
        return 16 / V;
    }
    if (left >= 4) {
        multiply_tile(4, V, x, depth, packed, bias, sums);
        return 4;
    }
    multiply_tile(1, V, x, depth, packed, bias, sums);
    return 1;
}

INLINE int lanes_left(int channels, int done) {
    const int left = channels - done;
    return left < LANES ? left : LANES;
}

/* Rows `row` to `end` of `V` output vectors from channel `done` on. */
INLINE void multiply_columns(const int V, long row, long end, int depth, int outputs, int done, int kind,
                             const float *x, const vec *weight, const vec *bias, const float *residual,
                             float *y) {
    while (row < end) {
        vec sums[16];
        const int count = multiply_rows(V, x + row * depth, end - row, depth, weight, bias, sums);
        for (int i = 0; i < V * count; i++) {
            const int channel = done + i % V * LANES, width = lanes_left(outputs, channel);
            const size_t at = (size_t)(row + i / V) * outputs + channel;
            vec value = activate(kind, sums[i]);
            if (residual)
                value += load_channels(residual + at, width);
            store_channels(y + at, value, width);
        }
        row += count;
    }
}

/* y = activation(x W + bias) + residual over `rows` rows. Packed weights: for each pair of output vectors,
 * `depth` x PAIR; bias padded to whole pairs. `residual` may be NULL or y itself. */
void ofa_block_pointwise(long rows, int depth, int outputs, int kind, int threads, const float *x,
                         const float *packed, const float *bias, const float *residual, float *y) {
    const long chunk = 256; /* rows whose inputs stay in the first-level cache */
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long start = 0; start < rows; start += chunk) {
        const long end = start + chunk < rows ? start + chunk : rows;
        for (int done = 0; done < outputs; done += PAIR) {
            const vec *weight = (const vec *)packed + (size_t)done / LANES * depth;
            const vec *offset = (const vec *)bias + done / LANES;
            if (outputs - done > LANES)
                multiply_columns(2, start, end, depth, outputs, done, kind, x, weight, offset, residual, y);
            else
                multiply_columns(1, start, end, depth, outputs, done, kind, x, weight, offset, residual, y);
        }
    }
}

/* Expand `group` images into the planes of one pair of channel blocks. */
static void expand_planes(const shape *s, int depth, int group, const float *x, const vec *packed,
                          const vec *bias, int kind, vec *planes, const int *place) {
    const size_t plane = (size_t)s->in_pitch * s->in_rows;
    const int pixels = s->height * s->width, rows = group * pixels;
    for (int row = 0; row < rows;) {
        vec sums[16];
        const int count = multiply_rows(2, x + (size_t)row * depth, rows - row, depth, packed, bias, sums);
        for (int r = 0; r < count; r++, row++) {
            vec *at = planes + 2 * plane * (row / pixels) + place[row % pixels];
            at[0] = activate(kind, sums[2 * r]);
            at[plane] = activate(kind, sums[2 * r + 1]);
        }
    }
}

/* sizes: images, middle channels, height, width, kernel, stride, threads, input channels, activation after
 * the expansion, activation after the depthwise convolution. Expansion packed as in `ofa_block_pointwise`;
 * depthwise packed per channel block as taps of vectors. Returns 0, 1 (unsupported) or 2 (memory). */
int ofa_block_expand_depthwise(const int *sizes, const float *x, const float *expand, const float *expand_bias,
                               const float *depthwise, const float *depthwise_bias, float *y) {
    shape described, *s = &described;
    if (describe(s, sizes))
        return 1;
    const int depth = sizes[7], taps = s->kernel * s->kernel, pixels = s->height * s->width;
    const int group = pixels < 64 ? (63 + pixels) / pixels : 1; /* enough rows for whole tiles */
    const size_t plane = (size_t)s->in_pitch * s->in_rows;
    const size_t out_image = (size_t)s->out_height * s->out_width * s->channels;
    int failed = 0;
#pragma omp parallel num_threads(s->threads) if (s->threads > 1) reduction(| : failed)
    {
        vec *planes = new_vectors(2 * plane * group);
        int *place = malloc(sizeof(int) * pixels);
        failed |= planes == NULL || place == NULL;
        for (int p = 0; p < pixels && !failed; p++)
            place[p] = (p / s->width + s->kernel / 2) * s->in_pitch + p % s->width + s->kernel / 2;
#pragma omp for schedule(static)
        for (int first = 0; first < s->images; first += group) {
            const int count = s->images - first < group ? s->images - first : group;
            for (int b = 0; b < s->blocks && !failed; b += 2) {
                expand_planes(s, depth, count, x + (size_t)first * pixels * depth,
                              (const vec *)expand + (size_t)b * depth, (const vec *)expand_bias + b, sizes[8],
                              planes, place);
                for (int i = 0; i < 2 * count; i++) {
                    const int block = b + (i & 1);
                    if (block < s->blocks)
                        run_forward(s, planes + plane * i, (const vec *)depthwise + (size_t)block * taps,
                                    ((const vec *)depthwise_bias)[block], sizes[9],
                                    y + (first + i / 2) * out_image + block * LANES, block_width(s, block));
                }
            }
        }
        free(planes);
        free(place);
    }
    return failed ? 2 : 0;
}

/* mean over the pixels of each image: x is images x pixels x channels. */
void ofa_block_pool(int images, int pixels, int channels, int threads, const float *restrict x,
                    float *restrict mean) {
    const float scale = 1.0f / (float)pixels;
    memset(mean, 0, sizeof(float) * images * channels);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int n = 0; n < images; n++) {
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < channels; c++)
                mean[(size_t)n * channels + c] += x[((size_t)n * pixels + p) * channels + c];
        for (int c = 0; c < channels; c++)
            mean[(size_t)n * channels + c] *= scale;
    }
}

/* x *= hard sigmoid of the gate of its image and channel. */
void ofa_block_gate(int images, int pixels, int channels, int threads, const float *restrict gate,
                    float *restrict x) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int n = 0; n < images; n++) {
        const float *restrict g = gate + (size_t)n * channels;
        for (int p = 0; p < pixels; p++) {
            float *restrict row = x + ((size_t)n * pixels + p) * channels;
            for (int c = 0; c < channels; c++) {
                float open = g[c] + 3.0f;
                open = open > 0.0f ? (open < 6.0f ? open : 6.0f) : 0.0f;
                row[c] *= open * (1.0f / 6.0f);
            }
        }
    }
}

/* x = activation(x * scale + offset) in place. */
void ofa_block_normalize(long rows, int channels, int kind, int threads, const float *scale,
                         const float *offset, float *x) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (long row = 0; row < rows; row++)
        for (int c = 0; c < channels; c += LANES) {
            const int width = lanes_left(channels, c);
            float *at = x + row * channels + c;
            const vec value = load_channels(at, width) * load_channels(scale + c, width);
            store_channels(at, activate(kind, value + load_channels(offset + c, width)), width);
        }
}
