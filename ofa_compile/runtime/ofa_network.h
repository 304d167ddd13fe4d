/* A compiled subnet as data, and the functions that run it. */
#ifndef OFA_NETWORK_H
#define OFA_NETWORK_H

#include <stddef.h>
#include <stdint.h>

/* Computes the tiles [begin, end) of one kernel call. */
typedef void (*ofa_step_function)(const float *input, unsigned char *arena, int32_t begin,
                                  int32_t end);

typedef struct ofa_step {
    ofa_step_function run;
    int32_t num_tiles;
    int32_t grain; /* tiles that a thread takes at a time; all of them when more do not pay */
} ofa_step;

typedef struct ofa_network {
    const char *version;     /* what was compiled, by which version */
    int64_t input_shape[4];  /* N, C, H, W */
    int64_t output_shape[2]; /* N, classes */
    size_t arena_bytes;      /* scratch memory of one run */
    size_t output_offset;    /* where in the arena the last step leaves the logits */
    int32_t num_steps;
    const ofa_step *steps;
    const unsigned char **weights; /* where the steps read them from */
    size_t weights_bytes;
} ofa_network;

typedef struct ofa_pool ofa_pool;

/* Threads include the caller: a pool of one starts none. NULL when threads cannot be started. */
ofa_pool *ofa_pool_create(int threads);
void ofa_pool_destroy(ofa_pool *pool);
int ofa_pool_threads(const ofa_pool *pool);

/* Run one step on all threads of the pool and wait for it. The step must stay as it is for as
 * long as the pool exists: a worker may look at one that is over. */
void ofa_pool_run(ofa_pool *pool, const ofa_step *step, const float *input,
                  unsigned char *arena);
/* Let the workers sleep until the next step instead of waiting for it actively. */
void ofa_pool_rest(ofa_pool *pool);

/* Input and arena are aligned to 64 bytes; one run at a time per arena and per pool. Where
 * `step_milliseconds` is not NULL it receives the time of each step. */
void ofa_network_run(const ofa_network *network, const float *input, float *output,
                     unsigned char *arena, ofa_pool *pool, double *step_milliseconds);

/* Copy the weights to huge pages and let the steps read them there, where that pays and can be;
 * and undo it. No run may be going on. */
void ofa_weights_move(const ofa_network *network);
void ofa_weights_restore(const ofa_network *network);

/* A clock that only runs forwards. */
double ofa_now_ms(void);

extern const ofa_network OFA_NETWORK;

#endif
