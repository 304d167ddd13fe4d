/* The part of the CUDA driver interface that we call, declared here so that building needs no
 * toolkit. Names and numbers are NVIDIA's (CUDA Driver API, version 11.4 and later). */
#ifndef OFA_CUDA_API_H
#define OFA_CUDA_API_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

/* All others are in cuda_errors.h. */
enum { CUDA_SUCCESS = 0, CUDA_ERROR_NOT_READY = 600 };

enum {
    CU_STREAM_NON_BLOCKING = 1,
    CU_EVENT_DEFAULT = 0,
    CU_EVENT_RECORD_EXTERNAL = 1,
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    CU_STREAM_CAPTURE_MODE_RELAXED = 2,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
};

/* Functions: F(our name, the library's name, parameters). */
#define OFA_CUDA_FUNCTIONS(F)                                                                    \
    F(Init, "cuInit", (unsigned))                                                                \
    F(DriverGetVersion, "cuDriverGetVersion", (int *))                                           \
    F(GetErrorName, "cuGetErrorName", (CUresult, const char **))                                 \
    F(DeviceGetCount, "cuDeviceGetCount", (int *))                                               \
    F(DeviceGet, "cuDeviceGet", (CUdevice *, int))                                               \
    F(DeviceGetName, "cuDeviceGetName", (char *, int, CUdevice))                                 \
    F(DeviceGetAttribute, "cuDeviceGetAttribute", (int *, int, CUdevice))                        \
    F(PrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext *, CUdevice))                     \
    F(PrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", (CUdevice))                             \
    F(CtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext))                                        \
    F(CtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext *))                                        \
    F(StreamCreate, "cuStreamCreate", (CUstream *, unsigned))                                    \
    F(StreamDestroy, "cuStreamDestroy_v2", (CUstream))                                           \
    F(StreamQuery, "cuStreamQuery", (CUstream))                                                  \
    F(StreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream, int))                            \
    F(ThreadExchangeCaptureMode, "cuThreadExchangeStreamCaptureMode", (int *))                   \
    F(StreamEndCapture, "cuStreamEndCapture", (CUstream, CUgraph *))                             \
    F(GraphInstantiate, "cuGraphInstantiateWithFlags",                                           \
      (CUgraphExec *, CUgraph, unsigned long long))                                              \
    F(GraphLaunch, "cuGraphLaunch", (CUgraphExec, CUstream))                                     \
    F(GraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec))                                     \
    F(GraphDestroy, "cuGraphDestroy", (CUgraph))                                                 \
    F(MemAlloc, "cuMemAlloc_v2", (CUdeviceptr *, size_t))                                        \
    F(MemFree, "cuMemFree_v2", (CUdeviceptr))                                                    \
    F(MemHostAlloc, "cuMemHostAlloc", (void **, size_t, unsigned))                               \
    F(MemFreeHost, "cuMemFreeHost", (void *))                                                    \
    F(MemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", (CUdeviceptr, const void *, size_t, CUstream))    \
    F(MemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", (void *, CUdeviceptr, size_t, CUstream))          \
    F(MemsetAsync, "cuMemsetD8Async", (CUdeviceptr, unsigned char, size_t, CUstream))            \
    F(ModuleLoadData, "cuModuleLoadData", (CUmodule *, const void *))                            \
    F(ModuleUnload, "cuModuleUnload", (CUmodule))                                                \
    F(ModuleGetFunction, "cuModuleGetFunction", (CUfunction *, CUmodule, const char *))          \
    F(LaunchKernel, "cuLaunchKernel",                                                            \
      (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,         \
       CUstream, void **, void **))                                                              \
    F(EventCreate, "cuEventCreate", (CUevent *, unsigned))                                       \
    F(EventDestroy, "cuEventDestroy_v2", (CUevent))                                              \
    F(EventRecordWithFlags, "cuEventRecordWithFlags", (CUevent, CUstream, unsigned))             \
    F(EventElapsedTime, "cuEventElapsedTime", (float *, CUevent, CUevent))

#define OFA_DECLARE(name, symbol, parameters) CUresult(*name) parameters;
typedef struct {
    OFA_CUDA_FUNCTIONS(OFA_DECLARE)
} cuda_functions;
#undef OFA_DECLARE

#endif
