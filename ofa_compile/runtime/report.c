#include "report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "network_meta.h"
#include "ofa_network.h"

/* Whether the JSON object or list being printed already has a member. */
static bool has_members, has_results;

/* Length of the well-formed UTF-8 sequence at `s`; 0 when there is none. */
static int utf8_length(const unsigned char *s) {
    int length = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
                               : (s[0] & 0xF0) == 0xE0         ? 3
                               : s[0] >= 0xF0 && s[0] < 0xF5   ? 4
                                                               : 0;
    for (int i = 1; i < length; ++i)
        if ((s[i] & 0xC0) != 0x80) return 0;
    /* Overlong forms, surrogates and values above U+10FFFF are no characters. */
    if ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F)) return 0;
    if ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F)) return 0;
    return length;
}

static void print_json_string(const char *text) {
    const unsigned char *s = (const unsigned char *)text;
    putchar('"');
    while (*s != '\0') {
        int length = utf8_length(s);
        if (length == 0) {
            fputs("\\ufffd", stdout);
            ++s;
        } else if (*s < 0x20) {
            printf("\\u%04x", *s++);
        } else {
            if (*s == '"' || *s == '\\') putchar('\\');
            for (int i = 0; i < length; ++i) putchar(*s++);
        }
    }
    putchar('"');
}

static void begin_member(const char *name) {
    if (has_members) fputs(", ", stdout);
    has_members = true;
    printf("\"%s\": ", name);
}

void report_begin(const options *o) {
    if (o->json && !o->help) putchar('{');
}

void report_end(const options *o) {
    if (!o->json || o->help) return;
    if (has_results) {
        putchar(']');
        has_results = false;
    }
    fputs("}\n", stdout);
}

void report_info(const options *o) {
    const int64_t *in = OFA_NETWORK.input_shape, *out = OFA_NETWORK.output_shape;
    if (!o->json) {
        printf("version      %s\n", OFA_NETWORK.version);
        printf("input        %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64 " float32\n",
               in[0], in[1], in[2], in[3]);
        printf("output       %" PRId64 " x %" PRId64 " logits\n", out[0], out[1]);
        printf("arena        %zu bytes\n", OFA_NETWORK.arena_bytes);
        return;
    }
    begin_member("version");
    print_json_string(OFA_NETWORK.version);
    begin_member("input_shape");
    printf("[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]", in[0], in[1], in[2], in[3]);
    begin_member("output_shape");
    printf("[%" PRId64 ", %" PRId64 "]", out[0], out[1]);
    begin_member("arena_bytes");
    printf("%zu", OFA_NETWORK.arena_bytes);
}

static const char *label_of(int index) {
    static const char *const labels[] = OFA_LABELS;
    return index < OFA_NUM_LABELS ? labels[index] : "";
}

/* Index of the best class that is not taken yet; the lower index wins a tie. */
static int best_class(const float *logits, const unsigned char *taken, int classes) {
    int best = -1;
    for (int c = 0; c < classes; ++c)
        if (!taken[c] && (best < 0 || logits[c] > logits[best])) best = c;
    return best;
}

static void print_class(const options *o, int rank, int index, double probability) {
    const char *label = label_of(index);
    if (o->json) {
        printf("%s{\"index\": %d, \"label\": ", rank > 0 ? ", " : "", index);
        print_json_string(label);
        printf(", \"probability\": %.9g}", probability);
    } else if (*label != '\0') {
        printf("  %6.2f %%  %s\n", 100.0 * probability, label);
    } else {
        printf("  %6.2f %%  class %d\n", 100.0 * probability, index);
    }
}

int report_classes(const options *o, const char *name, long index, const float *logits,
                   int classes) {
    unsigned char *taken = calloc((size_t)classes, 1);
    if (taken == NULL) {
        fputs("error: out of memory\n", stderr);
        return EXIT_RUN;
    }
    double largest = logits[best_class(logits, taken, classes)], sum = 0.0;
    for (int c = 0; c < classes; ++c) sum += exp(logits[c] - largest);
    if (o->json) {
        if (!has_results) begin_member("results");
        fputs(has_results ? ", {" : "[{", stdout);
        has_results = true;
        fputs("\"input\": ", stdout);
        print_json_string(name);
        fputs(", \"classes\": [", stdout);
    } else if (o->raw != NULL) {
        printf("%s, tensor %ld\n", name, index + 1);
    } else {
        printf("%s\n", name);
    }
    for (int rank = 0; rank < o->top && rank < classes; ++rank) {
        int best = best_class(logits, taken, classes);
        taken[best] = 1;
        print_class(o, rank, best, exp(logits[best] - largest) / sum);
    }
    if (o->json) fputs("]}", stdout);
    free(taken);
    return 0;
}

void report_benchmark(const options *o, const double *ms) {
    int n = o->repeats;
    double median = n % 2 == 1 ? ms[n / 2] : (ms[n / 2 - 1] + ms[n / 2]) / 2;
    double p95 = ms[(int)ceil(0.95 * n) - 1];
    double images = median > 0 ? 1e3 * (double)OFA_NETWORK.input_shape[0] / median : 0;
    if (!o->json) {
        printf("min %.4f ms, median %.4f ms, p95 %.4f ms, %.1f images/s (%d repeats, %d thread%s)\n",
               ms[0], median, p95, images, n, o->threads, o->threads == 1 ? "" : "s");
        return;
    }
    if (has_results) putchar(']');
    has_results = false;
    begin_member("benchmark");
    printf("{\"repeats\": %d, \"threads\": %d, \"min_ms\": %.6f, \"median_ms\": %.6f, "
           "\"p95_ms\": %.6f, \"batch\": %d, \"images_per_s\": %.3f}",
           n, o->threads, ms[0], median, p95, (int)OFA_NETWORK.input_shape[0], images);
}
