/* Says what a device is, and measures what one core of it does: lines of NAME=VALUE.
 * Linked with a kernel of chained multiply-adds; OFA_PROBE_VALUES and OFA_PROBE_FLOPS (of one step)
 * describe it. The argument is how many milliseconds a turn of a measurement takes. */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "board.h"

void ofa_probe_peak(float *values, int32_t begin, int32_t end);

enum { REPEATS = 20, MAX_BYTES = 128 << 20 };

static float values[OFA_PROBE_VALUES] __attribute__((aligned(64)));
static volatile uint64_t sink;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Does `amount` of some work and returns how many units that was. */
typedef double (*work)(int32_t amount);

/* The best rate of a few repeats, in units a second: nothing can make a core too fast. */
static double rate(work function, double seconds) {
    int32_t amount = 64;
    double best = 0;
    for (int left = REPEATS; left > 0;) {
        double start = now_s();
        double units = function(amount);
        double spent = now_s() - start;
        if (spent < seconds && amount < INT32_MAX / 2) {
            amount *= 2;
            continue;
        }
        if (spent > 0 && units / spent > best) best = units / spent;
        --left;
    }
    return best;
}

static double multiply_add(int32_t amount) {
    ofa_probe_peak(values, 0, amount);
    return (double)amount * OFA_PROBE_FLOPS;
}

/* A chain of additions: each takes one cycle on every core there is, since it waits for the last. */
static double add(int32_t amount) {
    uint32_t x = (uint32_t)amount, step = x | 1;
#define ONE                         \
    x += step;                      \
    __asm__ volatile("" : "+r"(x));
#define FOUR ONE ONE ONE ONE
    for (int32_t i = 0; i < amount; ++i) {
        FOUR FOUR FOUR FOUR
    }
    sink = x;
    return 16.0 * amount;
}

static uint64_t *memory;
static size_t words;

static double read_memory(int32_t amount) {
    uint64_t sums[8] = {0};
    size_t place = 0, count = (size_t)amount * 64;
    for (size_t done = 0; done < count; done += 64) {
        for (size_t i = 0; i < 64; i += 8)
            for (size_t j = 0; j < 8; ++j) sums[j] += memory[place + i + j];
        place += 64;
        if (place + 64 > words) place = 0;
    }
    for (size_t j = 0; j < 8; ++j) sink += sums[j];
    return (double)count * sizeof *memory;
}

/* Far more than any cache holds, as far as there is memory; written, so that pages exist. */
static int take_memory(size_t bytes) {
    while (bytes >= 1 << 20) {
        memory = malloc(bytes);
        if (memory != NULL) {
            memset(memory, 1, bytes);
            words = bytes / sizeof *memory;
            return 1;
        }
        bytes /= 2;
    }
    return 0;
}

int main(int argc, char **argv) {
    char facts[8192];
    size_t length = board_facts(facts, sizeof facts);
    fwrite(facts, 1, length, stdout);
    double seconds = (argc > 1 ? atof(argv[1]) : 10.0) * 1e-3;
    for (size_t i = 0; i < OFA_PROBE_VALUES; ++i) values[i] = 0.5f;
    printf("clock_hz=%.0f\n", rate(add, seconds));
    printf("peak_flops=%.0f\n", rate(multiply_add, seconds));
    if (take_memory(seconds < 0.005 ? 1 << 20 : MAX_BYTES))
        printf("bandwidth_bytes_per_s=%.0f\n", rate(read_memory, seconds));
    for (size_t i = 0; i < OFA_PROBE_VALUES; ++i) sink += (uint64_t)(values[i] * 2);
    return fflush(stdout) != 0;
}
