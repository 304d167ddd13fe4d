/* The network on an open device. One of vulkan_program.c and cuda_program.c implements this. */
#ifndef OFA_GPU_PROGRAM_H
#define OFA_GPU_PROGRAM_H

#include "gpu_error.h"
#include "gpu_network.h"

typedef struct gpu_program gpu_program;

/* Open a device, upload weights, prepare kernels and record one run. On failure nothing stays
 * open, but for a device that hangs. */
int gpu_program_open(gpu_program **program);
void gpu_program_close(gpu_program *program);

/* Run once; where `step_milliseconds` is not NULL it receives the device's time of each step. */
int gpu_program_run(gpu_program *program, const float *input, float *output,
                    double *step_milliseconds);

/* Run the steps once more on the last run's input; the device's time of all of them. */
int gpu_program_time(gpu_program *program, double *milliseconds);

/* Say what a code means, and what to do. */
const char *gpu_program_explain(int code);

#endif
