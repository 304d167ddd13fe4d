/* Hammers the thread pool: every tile of every step must run exactly once, and must see what all
 * tiles of the step before wrote. Exits 1 with a message otherwise.
 *
 * Usage: pool_hammer THREADS RUNS SEED. Prints the processor time of 0.2 s of idleness in ms. */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ofa_network.h"

enum { MAX_TILES = 300, NUM_STEPS = 200, STEPS_PER_RUN = 24 };

/* Plain memory on purpose: a tile that runs twice at once is a data race that a sanitizer sees. */
static struct {
    uint32_t runs[MAX_TILES];
    uint32_t values[2][MAX_TILES];
    uint32_t step;
    uint32_t wrong[MAX_TILES];
} state;

static uint32_t random_state;

static uint32_t draw(uint32_t limit) {
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % limit;
}

static void fail(const char *what, uint32_t step, uint32_t tile) {
    fprintf(stderr, "%s: step %u, tile %u\n", what, step, tile);
    exit(1);
}

static void run_tiles(const float *input, unsigned char *arena, int32_t begin, int32_t end) {
    (void)arena;
    uint32_t step = state.step, last = (step + 1) % 2;
    if (input == NULL || begin < 0 || end > MAX_TILES || begin >= end) fail("bad range", step, 0);
    for (int32_t tile = begin; tile < end; tile++) {
        state.runs[tile]++;
        /* Written in the step before, most likely by another thread. */
        uint32_t seen = state.values[last][MAX_TILES - 1 - tile];
        if (step > 0 && seen != step - 1 && seen != UINT32_MAX) state.wrong[tile]++;
        state.values[step % 2][tile] = step;
    }
}

static void sleep_us(long microseconds) {
    struct timespec time = {microseconds / 1000000, microseconds % 1000000 * 1000};
    nanosleep(&time, NULL);
}

static void check(const ofa_step *step) {
    for (int32_t tile = 0; tile < MAX_TILES; tile++) {
        uint32_t expected = tile < step->num_tiles;
        if (state.runs[tile] != expected) fail("not run exactly once", state.step, (uint32_t)tile);
        if (state.wrong[tile]) fail("old data", state.step, (uint32_t)tile);
        if (!expected) state.values[state.step % 2][tile] = UINT32_MAX;
    }
    memset(state.runs, 0, sizeof state.runs);
}

/* Drawn once: a pool may look at a step of the past, so steps never change. */
static ofa_step steps[NUM_STEPS];

static void draw_steps(void) {
    for (int i = 0; i < NUM_STEPS; i++) {
        int32_t tiles = (int32_t)(draw(4) ? 1 + draw(8) : 1 + draw(MAX_TILES));
        int32_t grain = (int32_t)(draw(2) ? 1 : 1 + draw((uint32_t)tiles));
        steps[i] = (ofa_step){run_tiles, tiles, grain};
    }
}

static void hammer(ofa_pool *pool, const float *input) {
    for (int i = 0; i < STEPS_PER_RUN; i++) {
        const ofa_step *step = &steps[draw(NUM_STEPS)];
        ofa_pool_run(pool, step, input, NULL);
        check(step);
        state.step++;
        if (draw(50) == 0) sleep_us(draw(300)); /* long enough for workers to fall asleep */
    }
    if (draw(2)) ofa_pool_rest(pool);
}

/* Runs through the interface that networks use; its last step writes the output. */
static int num_calls;
static void count_call(const float *input, unsigned char *arena, int32_t begin, int32_t end) {
    (void)input;
    for (int32_t tile = begin; tile < end; tile++) ((float *)(void *)arena)[tile] += 1;
    num_calls++; /* only ever called by one thread: the grain takes all tiles */
}

static void run_network(ofa_pool *pool, const float *input) {
    static _Alignas(64) float arena[64];
    static const ofa_step steps[] = {{count_call, 5, 5}, {count_call, 5, 5}, {count_call, 3, 3}};
    static const ofa_network network = {
        .output_shape = {1, 5}, .arena_bytes = sizeof arena, .num_steps = 3, .steps = steps};
    float output[5];
    memset(arena, 0, sizeof arena);
    num_calls = 0;
    ofa_network_run(&network, input, output, (unsigned char *)arena, pool, NULL);
    static const float expected[5] = {3, 3, 3, 2, 2};
    if (num_calls != 3 || memcmp(output, expected, sizeof output) != 0) fail("network", 0, 0);
}

static double processor_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int threads = atoi(argv[1]), runs = atoi(argv[2]);
    random_state = (uint32_t)atoi(argv[3]);
    float input = 0;
    draw_steps();
    /* A pool that is destroyed before, or right after, its workers have started. */
    for (int i = 0; i < 5; i++) {
        ofa_pool *pool = ofa_pool_create(threads);
        if (i % 2) hammer(pool, &input);
        ofa_pool_destroy(pool);
    }
    if (ofa_pool_create(0) != NULL || ofa_pool_threads(NULL) != 1) fail("create", 0, 0);
    ofa_pool_destroy(NULL);
    ofa_pool *pool = ofa_pool_create(threads);
    if (ofa_pool_threads(pool) != threads) fail("threads", 0, 0);
    for (int i = 0; i < runs; i++) hammer(pool, &input);
    run_network(pool, &input);
    run_network(NULL, &input);
    ofa_pool_rest(pool);
    sleep_us(20000);
    double before = processor_ms();
    sleep_us(200000);
    printf("%.3f\n", processor_ms() - before);
    ofa_pool_destroy(pool);
    return 0;
}
