#define _POSIX_C_SOURCE 200809L

#include "ofa_session.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ofa_call.h"
#include "ofa_lock.h"
#include "ofa_network.h"
#include "ofa_pages.h"

static struct {
    ofa_lock lock;
    unsigned char *memory; /* arena, then a copy of the input, then the output */
    ofa_pool *pool;
    long pool_owner; /* a forked child has our pool's memory but none of its threads */
    int threads;
} session = {.lock = OFA_UNLOCKED, .threads = 1};

static size_t round_up(size_t bytes) { return (bytes + OFA_ALIGNMENT - 1) / OFA_ALIGNMENT * OFA_ALIGNMENT; }

static void drop_pool(void) {
    if (session.pool != NULL && session.pool_owner == ofa_process()) ofa_pool_destroy(session.pool);
    session.pool = NULL;
}

/* Allocate memory and start threads where that has not happened yet. */
static int prepare(void) {
    if (session.memory == NULL) {
        size_t bytes =
            round_up(OFA_NETWORK.arena_bytes) + round_up(ofa_input_bytes(&OFA_NETWORK)) + round_up(ofa_output_bytes(&OFA_NETWORK));
        session.memory = ofa_pages(bytes);
        if (session.memory == NULL) return OFA_OUT_OF_MEMORY;
        ofa_weights_move(&OFA_NETWORK);
    }
    if (session.pool != NULL && session.pool_owner != ofa_process()) session.pool = NULL;
    if (session.pool == NULL) {
        session.pool = ofa_pool_create(session.threads);
        if (session.pool == NULL) return OFA_NO_THREADS;
        session.pool_owner = ofa_process();
    }
    return OFA_OK;
}

/* Run `warmup + repeats` times; write the last output, and, when asked for, the time of each
 * repeat or of each of its steps. */
static int run_locked(const float *input, float *output, int warmup, int repeats,
                      double *milliseconds, double *step_milliseconds) {
    int code = prepare();
    if (code != OFA_OK) return code;
    unsigned char *copy = session.memory + round_up(OFA_NETWORK.arena_bytes);
    /* The output is always written to our own memory: it may overlap the input. */
    unsigned char *result = copy + round_up(ofa_input_bytes(&OFA_NETWORK));
    const float *source = input;
    if ((uintptr_t)input % OFA_ALIGNMENT != 0) {
        memcpy(copy, input, ofa_input_bytes(&OFA_NETWORK));
        source = (const float *)(const void *)copy;
    }
    for (int i = -warmup; i < repeats; ++i) {
        double start = milliseconds != NULL ? ofa_now_ms() : 0;
        ofa_network_run(&OFA_NETWORK, source, (float *)(void *)result, session.memory,
                        session.pool, step_milliseconds);
        if (milliseconds != NULL && i >= 0) milliseconds[i] = ofa_now_ms() - start;
        if (step_milliseconds != NULL && i >= 0) step_milliseconds += OFA_NETWORK.num_steps;
    }
    memcpy(output, result, ofa_output_bytes(&OFA_NETWORK));
    return OFA_OK;
}

int ofa_session_run(const float *input, float *output) {
    int code = ofa_check_run(input, output);
    if (code != OFA_OK) return code;
    ofa_lock_take(&session.lock);
    code = run_locked(input, output, 0, 1, NULL, NULL);
    ofa_lock_release(&session.lock);
    return code;
}

static int time_runs(const float *input, float *output, int warmup, int repeats,
                     double *milliseconds, bool by_step) {
    int code = ofa_check_timing(input, output, warmup, repeats, milliseconds);
    if (code != OFA_OK) return code;
    ofa_lock_take(&session.lock);
    code = run_locked(input, output, warmup, repeats, by_step ? NULL : milliseconds,
                      by_step ? milliseconds : NULL);
    ofa_lock_release(&session.lock);
    return code;
}

int ofa_session_time(const float *input, float *output, int warmup, int repeats,
                     double *milliseconds) {
    return time_runs(input, output, warmup, repeats, milliseconds, false);
}

int ofa_session_time_steps(const float *input, float *output, int warmup, int repeats,
                           double *milliseconds) {
    return time_runs(input, output, warmup, repeats, milliseconds, true);
}

int ofa_session_time_device(const float *input, float *output, int warmup, int repeats,
                            double *milliseconds) {
    return time_runs(input, output, warmup, repeats, milliseconds, false);
}

int ofa_session_set_threads(int threads) {
    if (threads < 1 || threads > OFA_MAX_THREADS) return OFA_BAD_ARGUMENT;
    ofa_lock_take(&session.lock);
    int previous = session.threads;
    int code = OFA_OK;
    if (threads != previous) {
        drop_pool();
        session.threads = threads;
        code = prepare();
        if (code != OFA_OK) session.threads = previous;
    }
    ofa_lock_release(&session.lock);
    return code;
}

const char *ofa_session_error(int code) {
    const char *text = ofa_explain(code);
    return text != NULL ? text : "unknown error";
}

/* dlclose unmaps the code that idle pool threads wait in: stop them first. */
__attribute__((destructor)) static void close_session(void) {
    if (!ofa_lock_try(&session.lock)) return;
    drop_pool();
    free(session.memory);
    ofa_weights_restore(&OFA_NETWORK);
    session.memory = NULL;
    ofa_lock_release(&session.lock);
}
