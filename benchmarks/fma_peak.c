/* The rate of multiply-adds of one core: independent chains in registers, nothing else.
 * Compile with contraction of a * b + c allowed, and VECTOR_BYTES as wide as the registers. */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <time.h>

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));

/* Twelve chains cover a latency of four cycles on up to three units. */
#define CHAINS(DO) \
    DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
enum { NUM_CHAINS = 12 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Return GFLOP/s over `steps` multiply-adds of every chain; `seed` keeps them from being known at
 * compile time and `sink` receives a result so that they are not left out. */
double ofa_fma_peak(int64_t steps, float seed, float *sink) {
    vector factor = {0}, start = {0};
    factor += seed;
    start += 1.0f;
#define DECLARE(i) vector c##i = start * (float)(i);
    CHAINS(DECLARE)
    double begin = now();
    for (int64_t n = 0; n < steps; n++) {
#define STEP(i) c##i = c##i * factor + factor;
        CHAINS(STEP)
    }
    double seconds = now() - begin;
    vector sum = start;
#define ADD(i) sum += c##i;
    CHAINS(ADD)
    *sink = sum[0];
    double lanes = (double)(sizeof(vector) / sizeof(float));
    return 2.0 * lanes * NUM_CHAINS * (double)steps / seconds * 1e-9;
}
