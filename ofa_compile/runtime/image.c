#include "image.h"

#include <ctype.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Far above any camera, far below what would overflow: one row is then at most 6 MB. */
#define MAX_SIDE (1 << 20)

/* One axis of a resize: output pixel i is the sum of weights[offset[i] + j - first[i]] x input j
 * for first[i] <= j < end[i]. */
typedef struct {
    int size;
    int *first, *end;
    size_t *offset;
    float *weights;
} axis;

static void free_axis(axis *a) {
    free(a->first);
    free(a->end);
    free(a->offset);
    free(a->weights);
}

static float weight_of(const axis *a, int output, int input) {
    return a->weights[a->offset[output] + (size_t)(input - a->first[output])];
}

/* Fill in the normalised triangle weights of one output pixel. */
static void set_weights(axis *a, int i, double center, double support) {
    float *weights = a->weights + a->offset[i];
    double sum = 0.0;
    for (int pass = 0; pass < 2; ++pass)
        for (int j = a->first[i]; j < a->end[i]; ++j) {
            double distance = fabs((j + 0.5 - center) / support);
            double weight = distance < 1.0 ? 1.0 - distance : 0.0;
            if (pass == 0)
                sum += weight;
            else
                weights[j - a->first[i]] = (float)(weight / sum);
        }
}

/* Map `size` output pixels onto the input interval [origin, origin + length). */
static int make_axis(axis *a, int size, int input_size, double origin, double length) {
    double scale = length / size;
    /* Enlarging interpolates between neighbours; shrinking averages over the footprint. */
    double support = scale > 1.0 ? scale : 1.0;
    size_t count = 0;
    a->size = size;
    a->first = malloc((size_t)size * sizeof *a->first);
    a->end = malloc((size_t)size * sizeof *a->end);
    a->offset = malloc((size_t)size * sizeof *a->offset);
    if (a->first == NULL || a->end == NULL || a->offset == NULL) return -1;
    for (int i = 0; i < size; ++i) {
        double center = origin + (i + 0.5) * scale;
        int first = (int)(center - support + 0.5);
        int end = (int)(center + support + 0.5);
        a->first[i] = first < 0 ? 0 : first;
        a->end[i] = end > input_size ? input_size : end;
        a->offset[i] = count;
        count += (size_t)(a->end[i] - a->first[i]);
    }
    a->weights = malloc(count * sizeof *a->weights);
    if (a->weights == NULL) return -1;
    for (int i = 0; i < size; ++i) set_weights(a, i, origin + (i + 0.5) * scale, support);
    return 0;
}

/* Read a decimal number of a PPM header, with the blanks and comments before it. */
static long read_number(FILE *file) {
    int c = getc(file);
    while (isspace(c) || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = getc(file);
        else
            c = getc(file);
    }
    if (!isdigit(c)) return -1;
    long value = 0;
    for (; isdigit(c); c = getc(file))
        if (value <= 100000000L) value = value * 10 + (c - '0');
    /* Exactly one blank ends the number: after the last one the pixels begin. */
    return isspace(c) ? value : -1;
}

typedef struct {
    int width, height, max_value;
} header;

static int read_header(FILE *file, header *h, char *reason, size_t size) {
    if (getc(file) != 'P' || getc(file) != '6') {
        snprintf(reason, size, "not a binary PPM image (P6)");
        return -1;
    }
    long width = read_number(file);
    long height = width < 0 ? -1 : read_number(file);
    long max_value = height < 0 ? -1 : read_number(file);
    if (max_value < 0) {
        snprintf(reason, size, "the PPM header is damaged");
        return -1;
    }
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE) {
        snprintf(reason, size, "size %ldx%ld is not between 1x1 and %dx%d", width, height, MAX_SIDE,
                 MAX_SIDE);
        return -1;
    }
    if (max_value < 1 || max_value > 65535) {
        snprintf(reason, size, "largest value %ld is not between 1 and 65535", max_value);
        return -1;
    }
    h->width = (int)width;
    h->height = (int)height;
    h->max_value = (int)max_value;
    return 0;
}

/* Where the pixels of one image go: both axes, one raw row, one resized row. */
typedef struct {
    header header;
    axis columns, rows;
    unsigned char *raw;
    float *pixels, *resized;
} job;

static int make_job(job *j, const ofa_preprocessing *p) {
    double across = (double)j->header.width / p->width;
    double down = (double)j->header.height / p->height;
    double scale = (across < down ? across : down) * p->crop_fraction;
    double width = scale * p->width, height = scale * p->height;
    size_t samples = (size_t)j->header.width * 3;
    j->raw = malloc(samples * 2);
    j->pixels = malloc(samples * sizeof(float));
    j->resized = malloc((size_t)p->width * 3 * sizeof(float));
    if (j->raw == NULL || j->pixels == NULL || j->resized == NULL) return -1;
    if (make_axis(&j->columns, p->width, j->header.width, (j->header.width - width) / 2, width))
        return -1;
    return make_axis(&j->rows, p->height, j->header.height, (j->header.height - height) / 2,
                     height);
}

static void free_job(job *j) {
    free_axis(&j->columns);
    free_axis(&j->rows);
    free(j->raw);
    free(j->pixels);
    free(j->resized);
}

/* Read the next row as values between 0 and 1. */
static int read_row(FILE *file, job *j, int row, char *reason, size_t size) {
    size_t samples = (size_t)j->header.width * 3;
    size_t bytes = j->header.max_value > 255 ? 2 : 1;
    if (fread(j->raw, bytes, samples, file) != samples) {
        snprintf(reason, size, "the image ends in row %d of %d", row + 1, j->header.height);
        return -1;
    }
    float scale = 1.0f / (float)j->header.max_value;
    for (size_t i = 0; i < samples; ++i) {
        int value = bytes == 1 ? j->raw[i] : j->raw[2 * i] << 8 | j->raw[2 * i + 1];
        if (value > j->header.max_value) {
            snprintf(reason, size, "value %d in row %d is above the largest value %d", value,
                     row + 1, j->header.max_value);
            return -1;
        }
        j->pixels[i] = (float)value * scale;
    }
    return 0;
}

static void resize_row(job *j) {
    const axis *a = &j->columns;
    for (int x = 0; x < a->size; ++x) {
        const float *weights = a->weights + a->offset[x];
        const float *pixel = j->pixels + 3 * (size_t)a->first[x];
        float sum[3] = {0.0f, 0.0f, 0.0f};
        for (int i = a->first[x]; i < a->end[x]; ++i, ++weights, pixel += 3)
            for (int c = 0; c < 3; ++c) sum[c] += *weights * pixel[c];
        memcpy(j->resized + 3 * (size_t)x, sum, sizeof sum);
    }
}

/* Add one resized row, with its weight, to output row `y` of all three planes. */
static void add_row(const job *j, int y, int row, float *output) {
    const axis *a = &j->rows;
    float weight = weight_of(a, y, row);
    size_t width = (size_t)j->columns.size, plane = width * (size_t)a->size;
    float *line = output + (size_t)y * width;
    for (size_t x = 0; x < width; ++x)
        for (size_t c = 0; c < 3; ++c) line[c * plane + x] += weight * j->resized[3 * x + c];
}

static int read_pixels(FILE *file, job *j, float *output, char *reason, size_t size) {
    int oldest = 0; /* first output row that still needs input */
    for (int row = 0; row < j->header.height; ++row) {
        if (read_row(file, j, row, reason, size) != 0) return -1;
        while (oldest < j->rows.size && j->rows.end[oldest] <= row) ++oldest;
        if (oldest == j->rows.size || j->rows.first[oldest] > row) continue;
        resize_row(j);
        for (int y = oldest; y < j->rows.size && j->rows.first[y] <= row; ++y)
            if (row < j->rows.end[y]) add_row(j, y, row, output);
    }
    return 0;
}

int ofa_image_read(FILE *file, const ofa_preprocessing *preprocessing, float *output, char *reason,
                   size_t reason_size) {
    const ofa_preprocessing *p = preprocessing;
    size_t plane = (size_t)p->height * (size_t)p->width;
    job j;
    memset(&j, 0, sizeof j);
    if (read_header(file, &j.header, reason, reason_size) != 0) return -1;
    int code = make_job(&j, p);
    if (code != 0) snprintf(reason, reason_size, "out of memory");
    if (code == 0) {
        memset(output, 0, 3 * plane * sizeof(float));
        code = read_pixels(file, &j, output, reason, reason_size);
    }
    free_job(&j);
    for (size_t c = 0; code == 0 && c < 3; ++c)
        for (size_t i = 0; i < plane; ++i)
            output[c * plane + i] = (output[c * plane + i] - p->mean[c]) / p->std[c];
    return code;
}
