/* ofa_session.h for a network that runs on a GPU. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "gpu_program.h"
#include "ofa_call.h"
#include "ofa_network.h"
#include "ofa_session.h"

static struct {
    pthread_mutex_t lock;
    gpu_program *program;
    pid_t owner; /* a forked child cannot use its parent's device */
    bool is_registered, is_hung;
} session = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void close_device(void) {
    if (session.program != NULL && session.owner == getpid())
        gpu_program_close(session.program);
    session.program = NULL;
}

static void close_session(void) {
    if (pthread_mutex_trylock(&session.lock) != 0) return;
    close_device();
    pthread_mutex_unlock(&session.lock);
}

/* Look after what a failed run leaves behind. */
static int settle(int code) {
    /* The next call starts with a fresh device: this one answers nothing any more. */
    if (gpu_is_lost(code)) close_device();
    /* There is no way back from this, in this process: the program is left as it is. */
    if (code == GPU_HUNG) {
        session.program = NULL;
        session.is_hung = true;
    }
    return code;
}

static int prepare(void) {
    if (session.is_hung && session.owner == getpid()) return GPU_HUNG;
    if (session.program != NULL && session.owner == getpid()) return OFA_OK;
    session.program = NULL;
    session.owner = getpid();
    int code = gpu_program_open(&session.program);
    /* Called by dlclose, which unmaps our code, or at exit: no destructor, since that would come
     * after those of the driver, which registered its own at the first use. */
    if (code == 0 && !session.is_registered) session.is_registered = atexit(close_session) == 0;
    return code;
}

size_t gpu_round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }

static int run_locked(const float *input, float *output, int warmup, int repeats,
                      double *milliseconds, double *step_milliseconds) {
    int code = prepare();
    for (int i = -warmup; code == OFA_OK && i < repeats; ++i) {
        double start = ofa_now_ms();
        code = gpu_program_run(session.program, input, output, step_milliseconds);
        if (code == OFA_OK && milliseconds != NULL && i >= 0) milliseconds[i] = ofa_now_ms() - start;
        if (step_milliseconds != NULL && i >= 0) step_milliseconds += OFA_NETWORK.num_steps;
    }
    return settle(code);
}

/* As run_locked, but the device's own time of each repeat. */
static int time_locked(const float *input, float *output, int warmup, int repeats,
                       double *milliseconds) {
    double ignored;
    int code = run_locked(input, output, 0, 1, NULL, NULL);
    for (int i = -warmup; code == OFA_OK && i < repeats; ++i)
        code = gpu_program_time(session.program, i < 0 ? &ignored : &milliseconds[i]);
    return settle(code);
}

int ofa_session_run(const float *input, float *output) {
    int code = ofa_check_run(input, output);
    if (code != OFA_OK) return code;
    pthread_mutex_lock(&session.lock);
    code = run_locked(input, output, 0, 1, NULL, NULL);
    pthread_mutex_unlock(&session.lock);
    return code;
}

enum { HOST_CLOCK, STEP_CLOCK, DEVICE_CLOCK };

static int time_runs(const float *input, float *output, int warmup, int repeats, int clock,
                     double *milliseconds) {
    int code = ofa_check_timing(input, output, warmup, repeats, milliseconds);
    if (code != OFA_OK) return code;
    pthread_mutex_lock(&session.lock);
    if (clock == DEVICE_CLOCK)
        code = time_locked(input, output, warmup, repeats, milliseconds);
    else
        code = run_locked(input, output, warmup, repeats, clock == HOST_CLOCK ? milliseconds : NULL,
                          clock == STEP_CLOCK ? milliseconds : NULL);
    pthread_mutex_unlock(&session.lock);
    return code;
}

int ofa_session_time(const float *input, float *output, int warmup, int repeats,
                     double *milliseconds) {
    return time_runs(input, output, warmup, repeats, HOST_CLOCK, milliseconds);
}

int ofa_session_time_steps(const float *input, float *output, int warmup, int repeats,
                           double *milliseconds) {
    return time_runs(input, output, warmup, repeats, STEP_CLOCK, milliseconds);
}

int ofa_session_time_device(const float *input, float *output, int warmup, int repeats,
                            double *milliseconds) {
    return time_runs(input, output, warmup, repeats, DEVICE_CLOCK, milliseconds);
}

/* The device brings its own threads. */
int ofa_session_set_threads(int threads) {
    return threads < 1 || threads > OFA_MAX_THREADS ? OFA_BAD_ARGUMENT : OFA_OK;
}

const char *ofa_session_error(int code) {
    const char *text = ofa_explain(code);
    return text != NULL ? text : gpu_program_explain(code);
}
