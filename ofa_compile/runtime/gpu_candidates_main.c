/* Checks and times a tuner's candidates for a GPU on a board, where there is no Python. They are the
   steps of one network, which writes all of its memory as its output.

       candidates EXPECTED TIMES ROUNDS BUDGET_MS VALUE_BYTES OFFSET...

   runs the network once and compares what every candidate wrote, from its offset in bytes on, with
   the values in EXPECTED, which are float32 (4 bytes) or float16 (2):

       error NUMBER ERROR         relative to the largest value

   and then times all steps: ROUNDS times at least, and as often as fits into the budget at most.
   TIMES receives their milliseconds as float64, one round after the other. Ends with 4 if the device
   fails, which candidates may bring about, and with 5 if this machine has none that would do. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "gpu_error.h"
#include "half.h"
#include "ofa_call.h"
#include "ofa_network.h"
#include "ofa_session.h"

#define MOST_ROUNDS 20 /* times the least */

enum { DEVICE_FAILED = 4, NO_DEVICE = 5 };

static void fail(const char *what) {
    fprintf(stderr, "candidates: %s\n", what);
    exit(1);
}

static bool is_missing(int code) {
    switch (code) {
    case GPU_NO_DRIVER:
    case GPU_NO_DEVICE:
    case GPU_UNKNOWN_DEVICE:
    case GPU_NO_TIMESTAMPS:
    case GPU_OLD_DRIVER:
    case GPU_NO_CODE:
    case GPU_NO_HALVES:
    case GPU_BROKEN_DRIVER:
    case GPU_BUSY:
    case GPU_NOT_STARTED:
    case GPU_FAULTY:
    case GPU_NO_SERVER:
    case GPU_BAD_COMPAT:
    case GPU_NO_LICENCE: return true;
    default: return false;
    }
}

static void check(int code) {
    if (code == OFA_OK) return;
    fprintf(stderr, "candidates: %s\n", ofa_session_error(code));
    exit(is_missing(code) ? NO_DEVICE : DEVICE_FAILED);
}

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (memory == NULL) fail("out of memory");
    return memory;
}

static unsigned char *read_expected(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail("cannot open the data");
    *bytes = (size_t)ftell(file);
    rewind(file);
    unsigned char *values = allocate(*bytes, 1);
    if (fread(values, 1, *bytes, file) != *bytes) fail("cannot read the data");
    fclose(file);
    return values;
}

static double value_at(const unsigned char *values, size_t i, size_t value_bytes) {
    if (value_bytes == 2) return ofa_half(((const uint16_t *)(const void *)values)[i]);
    return ((const float *)(const void *)values)[i];
}

static double difference(const unsigned char *output, const unsigned char *expected, size_t count,
                         size_t value_bytes) {
    double largest = 1.0, error = 0.0;
    for (size_t i = 0; i < count; i++) {
        double right = value_at(expected, i, value_bytes);
        double off = fabs(value_at(output, i, value_bytes) - right);
        if (isnan(off)) return off;
        if (off > error) error = off;
        if (fabs(right) > largest) largest = fabs(right);
    }
    return error / largest;
}

static void time_steps(const float *input, float *output, const char *path, int least,
                       double budget_ms) {
    size_t steps = (size_t)OFA_NETWORK.num_steps;
    double *ms = allocate((size_t)least * MOST_ROUNDS * steps, sizeof *ms), once = 0;
    check(ofa_session_time_steps(input, output, 1, 1, ms));
    for (size_t i = 0; i < steps; i++) once += ms[i];
    int rounds = least * MOST_ROUNDS;
    if (once * rounds > budget_ms) rounds = (int)(budget_ms / once);
    if (rounds < least) rounds = least;
    check(ofa_session_time_steps(input, output, 0, rounds, ms));
    FILE *file = fopen(path, "wb");
    if (file == NULL) fail("cannot write the times");
    size_t count = (size_t)rounds * steps;
    bool is_written = fwrite(ms, sizeof *ms, count, file) == count;
    if (fclose(file) != 0 || !is_written) fail("cannot write the times");
    free(ms);
}

int main(int argc, char **argv) {
    if (argc < 7 || atoi(argv[3]) < 1 || (atoi(argv[5]) != 2 && atoi(argv[5]) != 4))
        fail("usage: candidates EXPECTED TIMES ROUNDS BUDGET_MS VALUE_BYTES OFFSET...");
    size_t bytes, output_bytes = ofa_output_bytes(&OFA_NETWORK), value_bytes = (size_t)atoi(argv[5]);
    unsigned char *expected = read_expected(argv[1], &bytes);
    float *input = allocate(ofa_input_bytes(&OFA_NETWORK), 1), *output = allocate(output_bytes, 1);
    check(ofa_session_run(input, output));
    for (int i = 6; i < argc; i++) {
        size_t offset = strtoul(argv[i], NULL, 10);
        if (offset > output_bytes || output_bytes - offset < bytes) fail("there is no such candidate");
        const unsigned char *result = (const unsigned char *)output + offset;
        double error = difference(result, expected, bytes / value_bytes, value_bytes);
        printf("error %d %.9g\n", i - 6, error);
    }
    time_steps(input, output, argv[2], atoi(argv[3]), atof(argv[4]));
    free(expected);
    free(input);
    free(output);
    return fflush(stdout) == 0 ? 0 : 1;
}
