/* The one running instance of OFA_NETWORK: its memory, its threads and its lock. */
#ifndef OFA_SESSION_H
#define OFA_SESSION_H

#define OFA_MAX_THREADS 1024

/* Part of the public ABI (subnet.h repeats the numbers): never renumber. */
enum {
    OFA_OK = 0,
    OFA_NULL_POINTER = 1,
    OFA_MISALIGNED = 2,
    OFA_OUT_OF_MEMORY = 3,
    OFA_BAD_ARGUMENT = 4,
    OFA_NO_THREADS = 5,
    OFA_DEVICE_ERROR = 32 /* from here on: what only a GPU can do wrong (vulkan_device.h) */
};

/* All of these lock: calls from several threads are safe and take turns. */
int ofa_session_run(const float *input, float *output);
int ofa_session_time(const float *input, float *output, int warmup, int repeats,
                     double *milliseconds);
int ofa_session_time_steps(const float *input, float *output, int warmup, int repeats,
                           double *milliseconds);
int ofa_session_time_device(const float *input, float *output, int warmup, int repeats,
                            double *milliseconds);
int ofa_session_set_threads(int threads);

const char *ofa_session_error(int code);

#endif
