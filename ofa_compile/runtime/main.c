/* The executable of a bundle: images or raw tensors in, classes or logits out. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image.h"
#include "network_meta.h"
#include "ofa_network.h"
#include "ofa_session.h"
#include "options.h"
#include "report.h"

static const ofa_preprocessing PREPROCESSING_CONSTANTS = {
    .crop_fraction = OFA_CROP_FRACTION, .mean = OFA_MEAN, .std = OFA_STD};

/* One run of the network takes a batch; images and raw tensors fill it slot by slot. */
typedef struct {
    const options *options;
    ofa_preprocessing preprocessing;
    size_t input_size, output_size; /* floats of one image */
    int batch, classes;
    int filled;
    long count; /* images seen so far */
    float *input, *output;
    const char **names;
    FILE *logits;
    bool is_finite;
} run;

static int fail(int code, const char *subject, const char *reason) {
    fprintf(stderr, "error: %s: %s\n", subject, reason);
    return code;
}

static int check_session(int code) {
    if (code == OFA_OK) return 0;
    int status = code >= OFA_DEVICE_ERROR ? EXIT_DEVICE : EXIT_RUN;
    return fail(status, "cannot run the network", ofa_session_error(code));
}

static int open_run(run *r, const options *o) {
    const int64_t *in = OFA_NETWORK.input_shape, *out = OFA_NETWORK.output_shape;
    memset(r, 0, sizeof *r);
    r->options = o;
    r->is_finite = true;
    r->preprocessing = PREPROCESSING_CONSTANTS;
    r->preprocessing.height = (int)in[2];
    r->preprocessing.width = (int)in[3];
    r->batch = (int)in[0];
    r->classes = (int)out[1];
    r->input_size = (size_t)(in[1] * in[2] * in[3]);
    r->output_size = (size_t)out[1];
    /* calloc: the unused slots of the last batch are zeros. */
    r->input = calloc((size_t)r->batch * r->input_size, sizeof(float));
    r->output = calloc((size_t)r->batch * r->output_size, sizeof(float));
    r->names = calloc((size_t)r->batch, sizeof *r->names);
    if (r->input == NULL || r->output == NULL || r->names == NULL)
        return fail(EXIT_RUN, "cannot start", "out of memory");
    if (o->logits != NULL) {
        r->logits = fopen(o->logits, "wb");
        if (r->logits == NULL) return fail(EXIT_INPUT, o->logits, strerror(errno));
    }
    return 0;
}

static int close_run(run *r, int code) {
    free(r->input);
    free(r->output);
    free(r->names);
    if (r->logits != NULL) {
        bool is_written = ferror(r->logits) == 0;
        /* fclose writes what is buffered: a full disk shows only here. */
        if (fclose(r->logits) != 0 || !is_written)
            return code != 0 ? code
                             : fail(EXIT_INPUT, r->options->logits, "the logits cannot be written");
    }
    return code;
}

/* Run the network on the filled slots and report each of them. */
static int flush_batch(run *r) {
    if (r->filled == 0) return 0;
    int code = check_session(ofa_session_run(r->input, r->output));
    for (int i = 0; code == 0 && i < r->filled; ++i) {
        const float *logits = r->output + (size_t)i * r->output_size;
        for (int c = 0; c < r->classes; ++c)
            if (!isfinite(logits[c])) r->is_finite = false;
        if (r->logits != NULL) fwrite(logits, sizeof(float), r->output_size, r->logits);
        /* Raw tensors with --logits are for machines: a thousand tables would only be in the way. */
        if (r->is_finite && !(r->options->raw != NULL && r->logits != NULL))
            code = report_classes(r->options, r->names[i], r->count++, logits, r->classes);
    }
    memset(r->input, 0, (size_t)r->batch * r->input_size * sizeof(float));
    r->filled = 0;
    return code;
}

static int add_image(run *r, const char *path) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (file == NULL) return fail(EXIT_INPUT, path, strerror(errno));
    char reason[160];
    int code = ofa_image_read(file, &r->preprocessing,
                              r->input + (size_t)r->filled * r->input_size, reason, sizeof reason);
    if (!is_stdin) fclose(file);
    if (code != 0) return fail(EXIT_INPUT, path, reason);
    r->names[r->filled++] = path;
    return r->filled == r->batch ? flush_batch(r) : 0;
}

/* Read raw float32 tensors until the file ends. */
static int add_tensors(run *r, const char *path, FILE *file) {
    char reason[160];
    size_t bytes = r->input_size * sizeof(float);
    for (long index = 0;; ++index) {
        float *slot = r->input + (size_t)r->filled * r->input_size;
        size_t got = fread(slot, 1, bytes, file);
        if (ferror(file)) return fail(EXIT_INPUT, path, strerror(errno));
        if (got == 0 && index > 0) return 0;
        if (got != bytes) {
            snprintf(reason, sizeof reason,
                     "tensor %ld has %zu bytes, the input of shape 3x%dx%d takes %zu", index + 1,
                     got, r->preprocessing.height, r->preprocessing.width, bytes);
            return fail(EXIT_INPUT, path, reason);
        }
        for (size_t i = 0; i < r->input_size; ++i)
            if (!isfinite(slot[i])) {
                snprintf(reason, sizeof reason, "tensor %ld holds a value that is not finite",
                         index + 1);
                return fail(EXIT_INPUT, path, reason);
            }
        r->names[r->filled++] = path;
        int code = r->filled == r->batch ? flush_batch(r) : 0;
        if (code != 0) return code;
    }
}

static int add_raw(run *r, const char *path) {
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (file == NULL) return fail(EXIT_INPUT, path, strerror(errno));
    int code = add_tensors(r, path, file);
    if (!is_stdin) fclose(file);
    return code;
}

static int classify(const options *o) {
    run r;
    int code = open_run(&r, o);
    if (code == 0 && o->raw != NULL) code = add_raw(&r, o->raw);
    for (int i = 0; code == 0 && i < o->num_images; ++i) code = add_image(&r, o->images[i]);
    if (code == 0) code = flush_batch(&r);
    bool is_finite = r.is_finite;
    code = close_run(&r, code);
    if (code == 0 && !is_finite)
        return fail(EXIT_NOT_FINITE, "the network", "a logit is not finite");
    return code;
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Write the times in the order of the runs. */
static int write_times(const options *o, const double *ms) {
    if (o->times == NULL) return 0;
    FILE *file = fopen(o->times, "wb");
    if (file == NULL) return fail(EXIT_INPUT, o->times, strerror(errno));
    bool is_written = fwrite(ms, sizeof *ms, (size_t)o->repeats, file) == (size_t)o->repeats;
    if (fclose(file) != 0 || !is_written)
        return fail(EXIT_INPUT, o->times, "the times cannot be written");
    return 0;
}

/* Time runs on a fixed input: the time does not depend on the values. */
static int benchmark(const options *o) {
    const int64_t *in = OFA_NETWORK.input_shape, *out = OFA_NETWORK.output_shape;
    size_t inputs = (size_t)(in[0] * in[1] * in[2] * in[3]);
    float *input = malloc(inputs * sizeof(float));
    float *output = malloc((size_t)(out[0] * out[1]) * sizeof(float));
    double *ms = malloc((size_t)o->repeats * sizeof *ms);
    int code = EXIT_RUN;
    if (input == NULL || output == NULL || ms == NULL) {
        fail(code, "cannot start the benchmark", "out of memory");
    } else {
        uint32_t state = 1;
        for (size_t i = 0; i < inputs; ++i) {
            state = state * 1664525u + 1013904223u;
            input[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
        }
        code = check_session(ofa_session_time(input, output, o->warmup, o->repeats, ms));
    }
    if (code == 0) code = write_times(o, ms);
    if (code == 0) {
        qsort(ms, (size_t)o->repeats, sizeof *ms, compare);
        report_benchmark(o, ms);
    }
    free(input);
    free(output);
    free(ms);
    return code;
}

int main(int argc, char **argv) {
    options o;
    int code = parse_options(&o, argc, argv);
    if (o.threads == 0) o.threads = OFA_THREADS;
    if (code == 0 && !o.help) code = check_session(ofa_session_set_threads(o.threads));
    if (code == 0 && o.help) {
        print_usage(stdout, argv[0]);
    } else if (code == 0) {
        report_begin(&o);
        if (o.info) report_info(&o);
        if (o.num_images > 0 || o.raw != NULL) code = classify(&o);
        if (code == 0 && o.repeats > 0) code = benchmark(&o);
    }
    if (code == 0) report_end(&o);
    free(o.images);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0)
        return fail(EXIT_RUN, "standard output", strerror(errno));
    return code;
}
