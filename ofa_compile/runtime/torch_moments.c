/* Mean and variance of the columns of a float32 matrix: what a batch norm sees of a channels-last tensor.
 *
 * Sums run over four rows at a time in float and are flushed into double every FLUSH groups. Comes before
 * torch_batch_norm.c and torch_block.c in their translation units.
 */
#include <stdlib.h>
#include <string.h>

#define FLUSH 64
#define INLINE static inline __attribute__((always_inline))

static void flush(float *restrict part, double *restrict total, int count) {
    for (int c = 0; c < count; c++) {
        total[c] += part[c];
        part[c] = 0.0f;
    }
}

/* Sums of (x - shift) and its square, shift being any row: no cancellation for a large mean. */
static void moments(const float *x, const float *shift, long rows, int C, float *restrict part,
                    double *restrict total) {
    float *restrict first = part, *restrict second = part + C;
    long row = 0;
    for (long group = 1; row + 4 <= rows; row += 4, group++) {
        const float *restrict p = x + row * C;
#pragma GCC ivdep
        for (int c = 0; c < C; c++) {
            const float s = shift[c];
            const float v0 = p[c] - s, v1 = p[c + C] - s, v2 = p[c + 2 * C] - s, v3 = p[c + 3 * C] - s;
            first[c] += (v0 + v1) + (v2 + v3);
            second[c] += (v0 * v0 + v1 * v1) + (v2 * v2 + v3 * v3);
        }
        if (group % FLUSH == 0)
            flush(part, total, 2 * C);
    }
    for (; row < rows; row++)
        for (int c = 0; c < C; c++) {
            const float v = x[row * C + c] - shift[c];
            first[c] += v;
            second[c] += v * v;
        }
    flush(part, total, 2 * C);
}

#define SHARES 16 /* of the rows; a fixed number, so that sums do not depend on the number of threads */

/* Mean and biased variance of each channel, in double. Returns 0, or 2 when memory runs out. */
int ofa_moments(long rows, int C, int threads, const float *x, double *mean, double *variance) {
    const size_t size = 2 * (size_t)C;
    double *total = calloc(size * SHARES, sizeof(double));
    float *part = calloc(size * SHARES, sizeof(float));
    const int failed = !total || !part;
    if (!failed) {
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
        for (int i = 0; i < SHARES; i++) {
            const long first = rows * i / SHARES, last = rows * (i + 1) / SHARES;
            moments(x + first * C, x, last - first, C, part + size * i, total + size * i);
        }
        for (int i = 1; i < SHARES; i++)
            for (size_t c = 0; c < size; c++)
                total[c] += total[size * i + c];
        for (int c = 0; c < C; c++) {
            const double lean = total[c] / rows, spread = total[C + c] / rows - lean * lean;
            mean[c] = lean + x[c];
            variance[c] = spread > 0.0 ? spread : 0.0;
        }
    }
    free(total), free(part);
    return failed ? 2 : 0;
}
