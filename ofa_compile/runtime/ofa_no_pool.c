/* The thread pool of a platform without threads: the caller, and nobody else. */
#include "ofa_network.h"

struct ofa_pool {
    char unused;
};

static ofa_pool the_caller;

ofa_pool *ofa_pool_create(int threads) { return threads == 1 ? &the_caller : NULL; }
void ofa_pool_destroy(ofa_pool *pool) { (void)pool; }

int ofa_pool_threads(const ofa_pool *pool) {
    (void)pool;
    return 1;
}

void ofa_pool_run(ofa_pool *pool, const ofa_step *step, const float *input,
                  unsigned char *arena) {
    (void)pool;
    step->run(input, arena, 0, step->num_tiles);
}

void ofa_pool_rest(ofa_pool *pool) { (void)pool; }
