"""The driver that uses the CPU refuses what NVIDIA's does: it would prove little if it did not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import pytest
from drivers import NAME, Context

from ofa_compile.compiler.cuda.nvcc import compile_cuda

pytestmark = pytest.mark.usefixtures("software")
INVALID_VALUE, INVALID_CONTEXT, INVALID_HANDLE, NOT_READY = 1, 201, 400, 600
ILLEGAL_ADDRESS, OUT_OF_RESOURCES, MISALIGNED = 700, 701, 716
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
EXTERNAL = 1  # an event that is a node of a graph
BYTES = 256

# Every thread should have waited for the one before it.
HASTY = """\
#include "cuda_kernel.h"
extern "C" __global__ void __launch_bounds__(4)
hasty(float *__restrict__ y) {
    __shared__ float taken[4];
    taken[threadIdx.x] = y[threadIdx.x];
    y[threadIdx.x] = taken[threadIdx.x == 0 ? 0 : threadIdx.x - 1];
}
"""
VECTOR = """\
#include "cuda_kernel.h"
extern "C" __global__ void __launch_bounds__(4)
vector(vec4 *__restrict__ y) { y[threadIdx.x] = vec4(1.0f); }
"""


class Raw:
    """The driver's functions, with a stream and memory."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL(NAME)
        self.stream, self.memory = self.make("cuStreamCreate", 1), ctypes.c_uint64()
        assert self.cuda.cuMemAlloc_v2(ctypes.byref(self.memory), ctypes.c_size_t(BYTES)) == 0

    def make(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        assert self.cuda[name](ctypes.byref(handle), *arguments) == 0
        return handle

    def allocate(self, num_bytes: int) -> int:
        memory = ctypes.c_uint64()
        return int(self.cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(num_bytes)))

    def fill(self, value: int = 0) -> int:
        count = ctypes.c_size_t(BYTES)
        return int(self.cuda.cuMemsetD8Async(self.memory, value, count, self.stream))

    def launch(self, function: ctypes.c_void_p, threads: int, offset: int = 0) -> int:
        argument = ctypes.c_uint64(self.memory.value + offset)
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
        sizes = (1, 1, 1, threads, 1, 1, 0)
        return int(self.cuda.cuLaunchKernel(function, *sizes, self.stream, arguments, None))

    def wait(self) -> int:
        while (result := self.cuda.cuStreamQuery(self.stream)) == NOT_READY:
            pass
        return int(result)

    def kernel(self, text: str, name: str) -> ctypes.c_void_p:
        module = self.make("cuModuleLoadData", compile_cuda(text, name, ["sm_75"]))
        return self.make("cuModuleGetFunction", module, name.encode())

    def end_capture(self) -> int:
        return int(self.cuda.cuStreamEndCapture(self.stream, ctypes.byref(ctypes.c_void_p())))


@pytest.fixture
def raw() -> Iterator[Raw]:
    with Context():  # what it holds goes with it
        yield Raw()


def test_calls_need_a_context(raw: Raw) -> None:
    context = raw.make("cuCtxPopCurrent_v2")
    assert raw.allocate(8) == raw.fill() == INVALID_CONTEXT
    assert raw.cuda.cuCtxPushCurrent_v2(context) == 0
    assert raw.allocate(8) == raw.fill() == 0
    assert raw.allocate(0) == INVALID_VALUE


def test_what_is_gone_is_no_more_used(raw: Raw) -> None:
    assert raw.cuda.cuMemFree_v2(raw.memory) == 0
    assert raw.cuda.cuMemFree_v2(raw.memory) == raw.fill() == INVALID_VALUE
    assert raw.cuda.cuStreamDestroy_v2(raw.stream) == 0
    assert raw.cuda.cuStreamDestroy_v2(raw.stream) == raw.wait() == INVALID_HANDLE


def test_freed_memory_is_a_kernels_fault(raw: Raw) -> None:
    kernel = raw.kernel(VECTOR, "vector")
    assert raw.launch(kernel, 4) == raw.wait() == 0
    assert raw.cuda.cuMemFree_v2(raw.memory) == 0
    assert raw.launch(kernel, 4) == 0
    # From then on nothing works.
    assert raw.wait() == raw.allocate(8) == ILLEGAL_ADDRESS


def test_memory_ends_where_it_ends(raw: Raw) -> None:
    kernel = raw.kernel(VECTOR, "vector")
    assert raw.launch(kernel, 4, BYTES - 64) == raw.wait() == 0
    assert raw.launch(kernel, 4, BYTES - 48) == 0
    assert raw.wait() == ILLEGAL_ADDRESS


def test_vectors_are_aligned(raw: Raw) -> None:
    assert raw.launch(raw.kernel(VECTOR, "vector"), 4, offset=4) == 0
    assert raw.wait() == MISALIGNED


def test_workgroups_keep_to_their_bounds(raw: Raw) -> None:
    assert raw.launch(raw.kernel(VECTOR, "vector"), 5) == OUT_OF_RESOURCES


def test_threads_that_do_not_wait_are_found_out(raw: Raw) -> None:
    kernel, is_right = raw.kernel(HASTY, "hasty"), []
    for value in (1, 2):
        assert raw.fill(value) == raw.launch(kernel, 4) == raw.wait() == 0
        found = ctypes.string_at(raw.memory.value, 16)
        is_right.append(found == bytes([value]) * 16)
    assert sorted(is_right) == [False, True]


def test_a_capture_is_spoilt_by_what_it_cannot_see(raw: Raw) -> None:
    strict = 1
    assert raw.cuda.cuStreamBeginCapture_v2(raw.stream, strict) == 0
    assert raw.fill() == 0
    assert raw.end_capture() == 0
    for spoil in (lambda: raw.allocate(8), raw.wait):
        assert raw.cuda.cuStreamBeginCapture_v2(raw.stream, strict) == 0
        assert spoil() == CAPTURE_UNSUPPORTED
        assert raw.end_capture() == CAPTURE_INVALIDATED
    # A kernel that was never launched would be loaded.
    kernel = raw.kernel(VECTOR, "vector")
    assert raw.cuda.cuStreamBeginCapture_v2(raw.stream, strict) == 0
    assert raw.launch(kernel, 4) == CAPTURE_UNSUPPORTED
    raw.end_capture()


def test_events_are_recorded_before_they_are_read(raw: Raw) -> None:
    event, time = raw.make("cuEventCreate", 0), ctypes.byref(ctypes.c_float())
    assert raw.cuda.cuEventElapsedTime(time, event, event) == INVALID_HANDLE
    # Outside a capture there is no graph to be a node of.
    assert raw.cuda.cuEventRecordWithFlags(event, raw.stream, EXTERNAL) == INVALID_VALUE
    assert raw.cuda.cuEventRecordWithFlags(event, raw.stream, 0) == 0
    assert raw.cuda.cuEventElapsedTime(time, event, event) == NOT_READY
    assert raw.wait() == raw.cuda.cuEventElapsedTime(time, event, event) == 0
