// The device behind software_driver.cc: memory, and a thread that does a stream's work.
#ifndef OFA_SOFTWARE_DEVICE_H
#define OFA_SOFTWARE_DEVICE_H

#include <cstddef>
#include <functional>
#include <vector>

extern "C" {
#include "cuda_api.h"
}
#include "software_grid.h"

constexpr int CU_STREAM_CAPTURE_MODE_GLOBAL = 0;
constexpr CUresult INVALID_VALUE = 1;
constexpr CUresult OUT_OF_MEMORY = 2;
constexpr CUresult NOT_INITIALIZED = 3;
constexpr CUresult NO_DEVICE = 100;
constexpr CUresult INVALID_IMAGE = 200;
constexpr CUresult INVALID_CONTEXT = 201;
constexpr CUresult NO_BINARY_FOR_GPU = 209;
constexpr CUresult INVALID_HANDLE = 400;
constexpr CUresult ILLEGAL_STATE = 401;
constexpr CUresult NOT_FOUND = 500;
constexpr CUresult ILLEGAL_ADDRESS = 700;
constexpr CUresult LAUNCH_OUT_OF_RESOURCES = 701;
constexpr CUresult MISALIGNED_ADDRESS = 716;
constexpr CUresult STREAM_CAPTURE_UNSUPPORTED = 900;
constexpr CUresult STREAM_CAPTURE_INVALIDATED = 901;
constexpr CUresult STREAM_CAPTURE_WRONG_THREAD = 908;

struct Step {
    std::function<CUresult()> run;
    CUevent event = nullptr;  // that it records
};
using Work = std::vector<Step>;

// Memory that ends where an address begins that nothing may touch; NULL where there is none left.
void *device_allocate(size_t bytes);
void device_free(void *memory, size_t bytes);

// Give the device something to do. It does one thing after the other.
void device_start(Work work);
// Its result: CUDA_ERROR_NOT_READY while it has something to do. Waits for a moment first.
CUresult device_result();
// What went wrong on it: nothing else works until it is reset.
CUresult device_fault();
void device_reset();
// Wait for ever, if need be.
void device_finish();

CUresult run_grid(const SoftwareKernel *kernel, Coordinates grid, Coordinates threads,
                  std::vector<CUdeviceptr> arguments);

#endif
