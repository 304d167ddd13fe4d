/* One CUDA device: the driver's library, the choice of a device, and a stream on it. */
#ifndef OFA_CUDA_DEVICE_H
#define OFA_CUDA_DEVICE_H

#include "cuda_api.h"
#include "gpu_error.h"

typedef struct {
    cuda_functions cu;
    CUdevice device;
    CUcontext context; /* the device's primary one, which other users in this process share */
    CUstream stream;
    int driver_version; /* 12040: what CUDA 12.4 needs */
    int capability;     /* 86: compute capability 8.6 */
    char name[128];
} cuda_device;

/* Functions that return int return 0 or a code, which this explains. */
const char *cuda_explain(int code);

/* Open the device that `wanted` names by number or part of its name, or the first. */
int cuda_open(cuda_device *d, const char *wanted);
void cuda_close(cuda_device *d);

/* Make the device's context this thread's, and give back what was before; not to be nested. */
int cuda_enter(cuda_device *d);
void cuda_leave(cuda_device *d);

/* Turn a result into a code, and remember the call for cuda_explain. */
int cuda_check(const cuda_device *d, CUresult result, const char *call);

/* Wait until the stream has done all its work; GPU_HUNG where that takes too long. */
int cuda_wait(const cuda_device *d);

#endif
