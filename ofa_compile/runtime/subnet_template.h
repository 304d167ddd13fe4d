/* C interface of one compiled subnet. Every name carries this subnet's own prefix, so that
 * several subnets can be linked into one program.
 *
 * All functions may be called from any thread; runs take turns. Functions that return int
 * return 0 on success and otherwise a code that @PREFIX@error explains.
 */
#ifndef @PREFIX@SUBNET_H
#define @PREFIX@SUBNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What was compiled, and by which version. */
const char *@PREFIX@version(void);

/* Shape of the input: N, 3, H, W (float32, normalised as manifest.json says). */
int @PREFIX@input_shape(int64_t shape[4]);

/* Shape of the output: N, classes (float32 logits). */
int @PREFIX@output_shape(int64_t shape[2]);

/* Scratch memory of one run in bytes, allocated once at the first run. */
size_t @PREFIX@arena_bytes(void);

/* Compute the logits of one input. Pointers need float alignment (4 bytes), no more;
 * an input aligned to 64 bytes saves a copy. */
int @PREFIX@run(const float *input, float *output);

/* Use this many threads from now on (1 to 1024; the caller counts as one). Default: 1. */
int @PREFIX@set_threads(int threads);

/* Run `warmup` times, then `repeats` times, and store the time of each of the latter. */
int @PREFIX@time(const float *input, float *output, int warmup, int repeats,
    double *milliseconds);

/* Kernel calls of one run. */
int @PREFIX@num_steps(void);

/* As `time`, but store the time of each kernel call: `num_steps` values for each repeat. */
int @PREFIX@time_steps(const float *input, float *output, int warmup, int repeats,
    double *milliseconds);

/* As `time`, but by the clock of the device, of the kernels alone: on a GPU neither copies of input
 * and output nor the wait for it count. On a processor the same as `time`. */
int @PREFIX@time_device(const float *input, float *output, int warmup, int repeats,
    double *milliseconds);

/* Explain a code: 1 NULL pointer, 2 misaligned pointer, 3 out of memory, 4 argument out of
 * range, 5 threads cannot be started. */
const char *@PREFIX@error(int code);

#ifdef __cplusplus
}
#endif

#endif
