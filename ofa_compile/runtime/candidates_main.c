/* Checks and times candidates of a tuner where there is no Python: on a board or in an emulator.

       candidates DATA ROUNDS TURN_US [NUMBER...]

   reads the arrays in DATA, calls each candidate (or those of the numbers) once and compares its
   output, then times those that are right in rounds of turns (none, where only the one call is of
   interest). Says what it does as it goes, so that a crash can be laid at the right door:

       start NUMBER
       wrong NUMBER ERROR ALLOWED  relative to the largest value; -1: wrote behind its output
       time NUMBER MICROSECONDS    of a call, once a round */
#include "candidates.h"
#include "half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096
#define GUARD 256 /* bytes behind the output that no kernel may touch */
#define GUARD_BYTE 0xA5
#define UNWRITTEN 0xFF /* as floats and halves: not a number */
#define WARMUP_CALLS 2

static unsigned char *data;

static void fail(const char *what) {
    fprintf(stderr, "candidates: %s\n", what);
    exit(1);
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    if (memory == NULL) fail("out of memory");
    return memory;
}

/* Where the memory planner would put a buffer: at `phase` within a page. */
static unsigned char *at_phase(size_t size, int phase) {
    unsigned char *memory = allocate(size + 2 * PAGE);
    size_t past = (size_t)((uintptr_t)memory % PAGE);
    return memory + (PAGE - past) % PAGE + (size_t)phase;
}

static void read_data(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail("cannot open the data");
    size_t count = (size_t)ofa_num_bytes;
    data = allocate(count);
    if (fread(data, 1, count, file) != count) fail("the data are too short");
    fclose(file);
}

struct loaded {
    void **table;
    unsigned char *output;
};

/* Give a candidate buffers of its own: `copies` rows of pointers, each followed by what to fetch. */
static struct loaded load(const struct ofa_candidate *c) {
    unsigned char **places = allocate((size_t)c->num_places * sizeof(unsigned char *));
    struct loaded result = {0};
    for (int i = 0; i < c->num_places; i++) {
        const struct ofa_array *a = &ofa_arrays[c->places[i].array];
        int is_output = c->places[i].array == ofa_expected;
        places[i] = at_phase((size_t)a->size + (is_output ? GUARD : 0), c->places[i].phase);
        if (!is_output) {
            memcpy(places[i], data + a->offset, (size_t)a->size);
            continue;
        }
        result.output = places[i];
        memset(places[i], UNWRITTEN, (size_t)a->size);
        memset(places[i] + a->size, GUARD_BYTE, GUARD);
    }
    int entries = c->copies * (c->num_pointers + 1);
    result.table = allocate((size_t)entries * sizeof(void *));
    for (int i = 0; i < entries; i++) result.table[i] = places[c->rows[i]];
    free(places);
    return result;
}

static int value_bytes(void) {
    return ofa_type == OFA_FLOAT ? 4 : ofa_type == OFA_HALF ? 2 : 1;
}

static double value_at(const unsigned char *values, int i) {
    switch (ofa_type) {
        case OFA_FLOAT: return ((const float *)(const void *)values)[i];
        case OFA_HALF: return ofa_half(((const uint16_t *)(const void *)values)[i]);
        case OFA_SIGNED_BYTE: return (signed char)values[i];
        default: return values[i];
    }
}

/* Return the largest error relative to the largest expected value; -1 if the guard was hit, and not
   a number if a value is none. A byte may be a step off where it lies between two, which is rare. */
static double difference(const unsigned char *output) {
    const struct ofa_array *a = &ofa_arrays[ofa_expected];
    const unsigned char *expected = data + a->offset;
    double largest = 1.0, error = 0.0;
    for (int i = 0; i < GUARD; i++)
        if (output[a->size + i] != GUARD_BYTE) return -1.0;
    int count = a->size / value_bytes(), num_off = 0;
    for (int i = 0; i < count; i++) {
        double right = value_at(expected, i), off = fabs(value_at(output, i) - right);
        if (isnan(off)) return NAN;
        if (off > error) error = off;
        if (fabs(right) > largest) largest = fabs(right);
        num_off += off > 0;
    }
    if (value_bytes() > 1) return error / largest;
    return error <= 1 && num_off <= 1 + ofa_share_between * count ? 0 : error / ofa_levels;
}

static double call(const struct ofa_candidate *c, const struct loaded *l, int calls) {
    double s = ofa_time_kernel(
        c->kernel, l->table, c->num_pointers, c->copies, c->tiles, c->stride, calls);
    if (s < 0) fail("a kernel of so many pointers cannot be called");
    return 1e6 * s / calls;
}

static void say_start(int number) {
    printf("start %d\n", number);
    fflush(stdout);
}

static void time_in_rounds(
    const int *chosen, int count, const struct loaded *loaded, int rounds, double turn_us) {
    int *calls = allocate((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++) {
        const struct ofa_candidate *c = &ofa_candidates[chosen[i]];
        say_start(chosen[i]);
        call(c, &loaded[i], WARMUP_CALLS);
        int some = c->copies / 4 > WARMUP_CALLS ? c->copies / 4 : WARMUP_CALLS;
        double once = call(c, &loaded[i], some);
        calls[i] = once > 0 && once < turn_us ? (int)(turn_us / once + 0.5) : 1;
    }
    for (int round = 0; round < rounds; round++) {
        for (int step = 0; step < count; step++) {
            int i = round % 2 == 0 ? step : count - 1 - step;
            say_start(chosen[i]);
            double us = call(&ofa_candidates[chosen[i]], &loaded[i], calls[i]);
            printf("time %d %.6g\n", chosen[i], us);
        }
    }
    free(calls);
}

int main(int argc, char **argv) {
    if (argc < 4) fail("usage: candidates DATA ROUNDS TURN_US [NUMBER...]");
    read_data(argv[1]);
    int wanted = argc > 4 ? argc - 4 : ofa_num_candidates, count = 0;
    int *chosen = allocate((size_t)wanted * sizeof(int));
    struct loaded *loaded = allocate((size_t)wanted * sizeof(struct loaded));
    for (int i = 0; i < wanted; i++) {
        int number = argc > 4 ? atoi(argv[4 + i]) : i;
        if (number < 0 || number >= ofa_num_candidates) fail("there is no such candidate");
        say_start(number);
        loaded[count] = load(&ofa_candidates[number]);
        call(&ofa_candidates[number], &loaded[count], 1);
        double error = difference(loaded[count].output);
        if (error >= 0 && error <= ofa_tolerance)
            chosen[count++] = number;
        else
            printf("wrong %d %.3g %g\n", number, error, ofa_tolerance);
    }
    int rounds = atoi(argv[2]);
    if (rounds > 0) time_in_rounds(chosen, count, loaded, rounds, atof(argv[3]));
    return fflush(stdout) == 0 ? 0 : 1;
}
