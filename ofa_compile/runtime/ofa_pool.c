/* A small thread pool for runs of short steps.
 *
 * Between the steps of a run, workers watch the step counter for a few microseconds, since the
 * next step is about to come; after that, and whenever a run ends, they sleep on a condition
 * variable. Nothing spins between runs.
 *
 * Tiles are claimed from one 64-bit word that holds the step's number and the next tile. A claim
 * is a compare-and-swap, so a worker that wakes up late can never take tiles of another step:
 * its swap fails. Before the fields that describe a step are rewritten, its claims are closed: a
 * worker that read the old word, but already sees the next step's fields, must fail as well.
 */
#include "ofa_network.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* About 5-20 microseconds; waking a sleeping thread costs more than 20. */
enum { SPINS = 4000 };
/* A next tile that lies behind the last of any step. */
#define CLOSED ((uint64_t)INT32_MAX)

struct ofa_pool {
    int threads;
    pthread_t *workers;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_int sleepers;
    atomic_bool resting;
    atomic_bool stopping;
    _Atomic uint64_t claim; /* step number << 32 | next tile */
    atomic_int remaining;   /* tiles of the step not yet computed */
    _Atomic(const ofa_step *) step;
    _Atomic(const float *) input;
    _Atomic(unsigned char *) arena;
};

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Work on step `number` until no tile of it is left. */
static void work(ofa_pool *pool, uint32_t number) {
    for (;;) {
        uint64_t claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
        if ((uint32_t)(claim >> 32) != number) return;
        /* Acquire: who sees the next step here also sees that claims of this one are closed. */
        const ofa_step *step = atomic_load_explicit(&pool->step, memory_order_acquire);
        const float *input = atomic_load_explicit(&pool->input, memory_order_relaxed);
        unsigned char *arena = atomic_load_explicit(&pool->arena, memory_order_relaxed);
        int32_t begin = (int32_t)(uint32_t)claim;
        if (begin >= step->num_tiles) return;
        int32_t end = begin + step->grain;
        if (end > step->num_tiles) end = step->num_tiles;
        uint64_t next = (uint64_t)number << 32 | (uint32_t)end;
        if (!atomic_compare_exchange_weak_explicit(&pool->claim, &claim, next,
                                                   memory_order_acq_rel, memory_order_relaxed))
            continue;
        step->run(input, arena, begin, end);
        atomic_fetch_sub_explicit(&pool->remaining, end - begin, memory_order_release);
    }
}

static uint32_t current(ofa_pool *pool) {
    return (uint32_t)(atomic_load_explicit(&pool->claim, memory_order_acquire) >> 32);
}

/* Wait for a step other than `seen`; false when the pool stops. */
static bool wait_for_step(ofa_pool *pool, uint32_t seen) {
    for (int i = 0; i < SPINS && !atomic_load_explicit(&pool->resting, memory_order_relaxed); i++) {
        if (current(pool) != seen) return true;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->sleepers, 1);
    /* Sequentially consistent on purpose: pairs with the publisher's look at `sleepers`. */
    while ((uint32_t)(atomic_load(&pool->claim) >> 32) == seen && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
    return !atomic_load(&pool->stopping);
}

static void *worker_main(void *argument) {
    ofa_pool *pool = argument;
    uint32_t seen = 0;
    while (wait_for_step(pool, seen)) {
        seen = current(pool);
        work(pool, seen);
    }
    return NULL;
}

void ofa_pool_run(ofa_pool *pool, const ofa_step *step, const float *input,
                  unsigned char *arena) {
    uint32_t last = current(pool), number = last + 1;
    if (number == 0) number = 1; /* 0 is what a new worker has seen */
    atomic_store_explicit(&pool->claim, (uint64_t)last << 32 | CLOSED, memory_order_relaxed);
    atomic_store_explicit(&pool->step, step, memory_order_release);
    atomic_store_explicit(&pool->input, input, memory_order_relaxed);
    atomic_store_explicit(&pool->arena, arena, memory_order_relaxed);
    atomic_store_explicit(&pool->remaining, step->num_tiles, memory_order_relaxed);
    atomic_store_explicit(&pool->resting, false, memory_order_relaxed);
    atomic_store(&pool->claim, (uint64_t)number << 32); /* publishes all of the above */
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    work(pool, number);
    for (int i = 0; atomic_load_explicit(&pool->remaining, memory_order_acquire) > 0; i++) {
        if (i < SPINS)
            relax();
        else
            sched_yield(); /* a worker was preempted: let it run */
    }
}

void ofa_pool_rest(ofa_pool *pool) {
    atomic_store_explicit(&pool->resting, true, memory_order_relaxed);
}

int ofa_pool_threads(const ofa_pool *pool) { return pool ? pool->threads : 1; }

ofa_pool *ofa_pool_create(int threads) {
    if (threads < 1) return NULL;
    ofa_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return NULL;
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->workers) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    atomic_store(&pool->resting, true);
    for (pool->threads = 1; pool->threads < threads; pool->threads++) {
        pthread_t *worker = &pool->workers[pool->threads];
        if (pthread_create(worker, NULL, worker_main, pool) != 0) {
            ofa_pool_destroy(pool);
            return NULL;
        }
    }
    return pool;
}

void ofa_pool_destroy(ofa_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stopping, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}
