/* Batch normalisation with the activation after it, for training: rows of channels, float32.
 *
 * A channels-last tensor is `rows` x `channels`. The forward reads it twice and writes it once; the backward
 * recomputes the normalised value instead of reading a saved one, so that neither the value before the
 * activation nor a mask is ever stored. Compiled behind torch_moments.c.
 */
#include <math.h>

enum { NONE, RELU, RELU6, HSWISH };

INLINE float activate(const int KIND, float z) {
    if (KIND == RELU)
        return z > 0.0f ? z : 0.0f;
    if (KIND == RELU6)
        return z > 0.0f ? (z < 6.0f ? z : 6.0f) : 0.0f;
    if (KIND == HSWISH) {
        float gate = z + 3.0f;
        gate = gate > 0.0f ? (gate < 6.0f ? gate : 6.0f) : 0.0f;
        return z * gate * (1.0f / 6.0f);
    }
    return z;
}

INLINE float slope(const int KIND, float z) {
    if (KIND == RELU)
        return z > 0.0f ? 1.0f : 0.0f;
    if (KIND == RELU6)
        return z > 0.0f && z < 6.0f ? 1.0f : 0.0f;
    if (KIND == HSWISH) {
        const float inner = z * (1.0f / 3.0f) + 0.5f;
        return z <= -3.0f ? 0.0f : (z >= 3.0f ? 1.0f : inner);
    }
    return 1.0f;
}

INLINE void apply(const int KIND, const float *restrict x, long rows, int C, const float *restrict scale,
                  const float *restrict offset, float *restrict y) {
    for (long row = 0; row < rows; row++) {
#pragma GCC ivdep
        for (int c = 0; c < C; c++)
            y[row * C + c] = activate(KIND, x[row * C + c] * scale[c] + offset[c]);
    }
}

INLINE void reduce(const int KIND, const float *restrict x, const float *restrict g, long rows, int C,
                   const float *restrict scale, const float *restrict offset, const float *restrict mean,
                   float *restrict part, double *restrict total) {
    float *restrict first = part, *restrict second = part + C;
    long row = 0;
    for (long group = 1; row + 4 <= rows; row += 4, group++) {
        const float *restrict p = x + row * C, *restrict q = g + row * C;
#pragma GCC ivdep
        for (int c = 0; c < C; c++) {
            const float s = scale[c], o = offset[c], m = mean[c];
            const float v0 = p[c], v1 = p[c + C], v2 = p[c + 2 * C], v3 = p[c + 3 * C];
            const float d0 = q[c] * slope(KIND, v0 * s + o), d1 = q[c + C] * slope(KIND, v1 * s + o);
            const float d2 = q[c + 2 * C] * slope(KIND, v2 * s + o);
            const float d3 = q[c + 3 * C] * slope(KIND, v3 * s + o);
            first[c] += (d0 + d1) + (d2 + d3);
            second[c] += (d0 * (v0 - m) + d1 * (v1 - m)) + (d2 * (v2 - m) + d3 * (v3 - m));
        }
        if (group % FLUSH == 0)
            flush(part, total, 2 * C);
    }
    for (; row < rows; row++)
        for (int c = 0; c < C; c++) {
            const float v = x[row * C + c];
            const float d = g[row * C + c] * slope(KIND, v * scale[c] + offset[c]);
            first[c] += d;
            second[c] += d * (v - mean[c]);
        }
    flush(part, total, 2 * C);
}

INLINE void propagate(const int KIND, const float *restrict x, const float *restrict g, long rows, int C,
                      const float *restrict scale, const float *restrict offset, const float *restrict slant,
                      const float *restrict level, float *restrict dx) {
    for (long row = 0; row < rows; row++) {
#pragma GCC ivdep
        for (int c = 0; c < C; c++) {
            const float v = x[row * C + c];
            const float d = g[row * C + c] * slope(KIND, v * scale[c] + offset[c]);
            dx[row * C + c] = d * scale[c] - v * slant[c] - level[c];
        }
    }
}

#define FOR_EACH_KIND(CALL)                                                                               \
    switch (kind) {                                                                                       \
        case NONE: CALL(NONE); break;                                                                     \
        case RELU: CALL(RELU); break;                                                                     \
        case RELU6: CALL(RELU6); break;                                                                   \
        case HSWISH: CALL(HSWISH); break;                                                                 \
    }

/* statistics: mean and inverse standard deviation, 2 x channels, written here and given to the backward;
 * running_mean and running_var are updated in place unless NULL. Returns 0, or 2 when memory runs out. */
int ofa_batch_norm_forward(long rows, int C, int kind, float epsilon, float momentum, const float *x,
                           const float *gamma, const float *beta, float *running_mean, float *running_var,
                           float *statistics, float *y) {
    double *total = calloc(2 * (size_t)C, sizeof(double));
    float *part = calloc(2 * (size_t)C, sizeof(float));
    if (!total || !part) {
        free(total), free(part);
        return 2;
    }
    moments(x, x, rows, C, part, total);
    float *scale = part, *offset = part + C;
    for (int c = 0; c < C; c++) {
        const double lean = total[c] / rows, mean = lean + x[c];
        double variance = total[C + c] / rows - lean * lean;
        variance = variance > 0.0 ? variance : 0.0;
        const float inverse = (float)(1.0 / sqrt(variance + epsilon));
        statistics[c] = (float)mean;
        statistics[C + c] = inverse;
        scale[c] = gamma[c] * inverse;
        offset[c] = (float)(beta[c] - mean * scale[c]);
        if (running_mean) {
            const double unbiased = rows > 1 ? variance * rows / (rows - 1) : variance;
            running_mean[c] += momentum * ((float)mean - running_mean[c]);
            running_var[c] += momentum * ((float)unbiased - running_var[c]);
        }
    }
#define CALL(KIND) apply(KIND, x, rows, C, scale, offset, y)
    FOR_EACH_KIND(CALL)
#undef CALL
    free(total), free(part);
    return 0;
}

int ofa_batch_norm_backward(long rows, int C, int kind, const float *x, const float *gamma, const float *beta,
                            const float *statistics, const float *grad, float *grad_x, float *grad_gamma,
                            float *grad_beta) {
    double *total = calloc(2 * (size_t)C, sizeof(double));
    float *part = calloc(6 * (size_t)C, sizeof(float));
    if (!total || !part) {
        free(total), free(part);
        return 2;
    }
    const float *mean = statistics, *inverse = statistics + C;
    float *scale = part + 2 * C, *offset = part + 3 * C, *slant = part + 4 * C, *level = part + 5 * C;
    for (int c = 0; c < C; c++) {
        scale[c] = gamma[c] * inverse[c];
        offset[c] = (float)(beta[c] - (double)mean[c] * scale[c]);
    }
#define CALL(KIND) reduce(KIND, x, grad, rows, C, scale, offset, mean, part, total)
    FOR_EACH_KIND(CALL)
#undef CALL
    for (int c = 0; c < C; c++) {
        const double d_beta = total[c], d_gamma = total[C + c] * inverse[c];
        grad_beta[c] = (float)d_beta;
        grad_gamma[c] = (float)d_gamma;
        /* scale * (d - d_beta / rows - (x - mean) * inverse * d_gamma / rows) */
        slant[c] = (float)(scale[c] * inverse[c] * d_gamma / rows);
        level[c] = (float)(scale[c] * d_beta / rows - (double)mean[c] * slant[c]);
    }
#define CALL(KIND) propagate(KIND, x, grad, rows, C, scale, offset, slant, level, grad_x)
    FOR_EACH_KIND(CALL)
#undef CALL
    free(total), free(part);
    return 0;
}
