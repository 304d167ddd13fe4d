/* Times one kernel with nothing between its calls. Loaded by the measuring process of a tuner. */
#define _POSIX_C_SOURCE 200809L

#include <stdint.h>
#include <time.h>

#define P void *
/* Kernels that fetch nothing ignore the last two arguments. */
#define CALL(types, ...) \
    ((void (*)(types, int32_t, int32_t, P, int32_t))kernel)( \
        __VA_ARGS__, 0, tiles, a[count], stride)
#define AND ,
#define SIX P AND P AND P AND P AND P AND P
#define FIRST_SIX a[0], a[1], a[2], a[3], a[4], a[5]

static void call(void (*kernel)(void), void **a, int count, int32_t tiles, int32_t stride) {
    switch (count) {
        case 2: CALL(P AND P, a[0], a[1]); break;
        case 3: CALL(P AND P AND P, a[0], a[1], a[2]); break;
        case 4: CALL(P AND P AND P AND P, a[0], a[1], a[2], a[3]); break;
        case 5: CALL(P AND P AND P AND P AND P, a[0], a[1], a[2], a[3], a[4]); break;
        case 6: CALL(SIX, FIRST_SIX); break;
        case 7: CALL(SIX AND P, FIRST_SIX, a[6]); break;
        case 8: CALL(SIX AND P AND P, FIRST_SIX, a[6], a[7]); break;
        default: break;
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double ofa_time_kernel(
    void (*kernel)(void), void **arguments, int count, int copies, int32_t tiles, int32_t stride,
    int calls);

/* Call `kernel` on all its tiles `calls` times; call i takes row i % copies of `arguments`: `count`
   pointers, then what to fetch from memory on the way, `stride` values at every inner step.
   Returns seconds, or -1 when no kernel takes so many pointers. */
double ofa_time_kernel(
    void (*kernel)(void), void **arguments, int count, int copies, int32_t tiles, int32_t stride,
    int calls) {
    if (count < 2 || count > 8) return -1.0;
    double start = now();
    for (int i = 0, copy = 0; i < calls; i++) {
        call(kernel, arguments + copy * (count + 1), count, tiles, stride);
        if (++copy == copies) copy = 0;
    }
    return now() - start;
}
