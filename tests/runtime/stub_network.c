/* Stands in for a generated network: see STUB_* for what it computes. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ofa_network.h"

#ifndef STUB_BATCH
#define STUB_BATCH 1
#endif
#ifndef STUB_SIDE
#define STUB_SIDE 8
#endif
#define INPUTS (3 * STUB_SIDE * STUB_SIDE)

/* The default copies its input through the arena to its output, so that tests see what the
 * network was given. STUB_CLASSES: the first values of the input are the logits. */
#ifndef STUB_CLASSES
#define STUB_CLASSES INPUTS
#endif

const ofa_network OFA_NETWORK = {
    .version = "stub \"network\"",
    .input_shape = {STUB_BATCH, 3, STUB_SIDE, STUB_SIDE},
    .output_shape = {STUB_BATCH, STUB_CLASSES},
    .num_steps = 3,
    .arena_bytes = STUB_BATCH * INPUTS * sizeof(float),
};

struct ofa_pool {
    int threads;
};

ofa_pool *ofa_pool_create(int threads) {
    ofa_pool *pool = threads > 1000 ? NULL : malloc(sizeof *pool);
    if (pool != NULL) pool->threads = threads;
    return pool;
}

void ofa_pool_destroy(ofa_pool *pool) { free(pool); }

int ofa_pool_threads(const ofa_pool *pool) { return pool->threads; }

void ofa_network_run(const ofa_network *network, const float *input, float *output,
                     unsigned char *arena, ofa_pool *pool, double *step_milliseconds) {
    (void)network;
    (void)pool;
    if ((uintptr_t)input % 64 != 0 || (uintptr_t)output % 64 != 0 || (uintptr_t)arena % 64 != 0)
        abort();
    memcpy(arena, input, sizeof(float) * STUB_BATCH * INPUTS);
    for (int n = 0; n < STUB_BATCH; ++n)
        memcpy(output + n * STUB_CLASSES, arena + sizeof(float) * (size_t)(n * INPUTS),
               sizeof(float) * STUB_CLASSES);
    for (int i = 0; step_milliseconds != NULL && i < OFA_NETWORK.num_steps; i++)
        step_milliseconds[i] = i + 1;
#ifdef STUB_NAN
    output[1] = NAN;
#endif
}
