"""Runtimes of a GPU: ours and others, each behind the same few calls.

Every runtime tells two times. `device_ms` is without copies of input and output: ours from the
first kernel to the last by the device's clock, PyTorch's and TVM's as the mean of many runs queued
one behind the other, ONNX Runtime's by the host's clock run by run, and ncnn's so with copies.
`end_to_end_ms` is by the host's clock, from an input in host memory to logits there.

A runtime's name ends in the arithmetic it computes in, if that is not float32: "-tf32", "-fp16".
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gpu_prebuilt import PREFIX, images
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.space import Architecture

OURS = "ours"
# Queued runs hide the launch of all but the first.
_MOST_QUEUED, _QUEUE_MS = 20, 20.0
_WARMUP = 2
_PEERS = {
    "cuda": ("torch-graph", "torch-max-autotune", "onnxruntime", "tensorrt", "tvm"),
    "vulkan": ("ncnn-vulkan", "tvm"),
}
_PLACES = {
    OURS: "gpu_runtimes:OursOnGpu",
    "torch": "gpu_torch:TorchOnGpu",
    "onnxruntime": "gpu_onnxruntime:CudaOnnxRuntime",
    "tensorrt": "gpu_onnxruntime:TensorRt",
    "tvm": "gpu_tvm:TvmOnGpu",
    "ncnn": "gpu_ncnn:NcnnOnVulkan",
}


class GpuRuntime(Protocol):
    """A network loaded by one runtime, with its input.

    It is made from the network's folder, its facts and the runtime's name, and raises what it
    likes.
    """

    @staticmethod
    def describe() -> str:
        """Return version and device, or raise if the runtime or its device is not here."""

    def logits(self) -> NDArray[np.float32]:
        """Run once."""

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs without copies."""

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs with copies."""

    def runs(self, repeats: int) -> int:
        """Return how many runs `device_ms` makes, those included that are not timed."""

    def close(self) -> None:
        """Let go of the network and of what it holds of the device."""


class OursOnGpu:
    """The library that ofa-compile built."""

    def __init__(self, place: Path, facts: Mapping[str, Any], _: str = OURS) -> None:
        architecture = Architecture.from_dict(facts["architecture"])
        self._x = images(architecture, facts["batch"])
        self._library = NativeLibrary(place / "libsubnet.so", PREFIX)

    @staticmethod
    def describe() -> str:
        """Name what it needs."""
        return "the driver alone"

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        return self._library.run(self._x)

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs without copies, by the device's clock."""
        return self._library.time_device(self._x, repeats=repeats, warmup=_WARMUP)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs inside the library."""
        return self._library.time(self._x, repeats=repeats, warmup=1)

    def runs(self, repeats: int) -> int:
        """Return the timed runs, those before them, and the one that brings the input."""
        return repeats + _WARMUP + 1

    def step_ms(self, repeats: int) -> list[float]:
        """Return the median time of each kernel."""
        steps = self._library.time_steps(self._x, repeats=repeats, warmup=_WARMUP)
        return [float(value) for value in np.median(steps, axis=0)]

    def close(self) -> None:
        """Unload."""
        self._library.close()


def runtimes_for(kind: str, precision: str) -> list[str]:
    """Return what can be compared on a kind of target in an arithmetic, ours first.

    TVM computes in float32 here, and no runtime of Vulkan rounds to TF32.
    """
    suffix = "" if precision == "fp32" else f"-{precision}"
    peers = [name for name in _PEERS[kind] if not suffix or name != "tvm"]
    return [OURS, *(name + suffix for name in peers)]


def precision_of(name: str, facts: Mapping[str, Any]) -> str:
    """Return what a runtime computes in: ours as it was built, others as their names say."""
    if name == OURS:
        return str(facts["precision"])
    tail = name.rpartition("-")[2]
    return tail if tail in ("tf32", "fp16") else "fp32"


def base_of(name: str) -> str:
    """Return a runtime's name without its arithmetic."""
    return name.removesuffix("-tf32").removesuffix("-fp16")


def is_timed_by_host(name: str) -> bool:
    """Whether a runtime's `device_ms` holds the launch of each run and the wait for its end."""
    return name.startswith(("onnxruntime", "tensorrt", "ncnn"))


def is_searching(name: str) -> bool:
    """Whether a runtime searches for minutes as it first loads a network, and keeps the result."""
    return name.startswith(("torch-max-autotune", "tensorrt"))


def environment_of(name: str) -> dict[str, str]:
    """Return the variables that a runtime's process needs.

    ONNX Runtime lets TensorRT round products to TF32, whatever it is told, unless the environment
    forbids that to the whole process.
    """
    return {"NVIDIA_TF32_OVERRIDE": "0"} if name == "tensorrt" else {}


def runtime_class(name: str) -> Any:
    """Return the class of a runtime.

    Parameters
    ----------
    name
        One of `runtimes_for`, or MODULE:CLASS of a `GpuRuntime` anywhere on the path.
    """
    place = name if ":" in name else _PLACES[name.partition("-")[0]]
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def timed(call: Callable[[], Any], repeats: int) -> NDArray[np.float64]:
    """Time calls by the host's clock, in milliseconds."""
    times = np.empty(repeats)
    for number in range(repeats):
        start = time.perf_counter_ns()
        call()
        times[number] = (time.perf_counter_ns() - start) / 1e6
    return times


def queue_length(call: Callable[[], Any]) -> int:
    """Return how many runs to queue: many of those that are quickly done."""
    return int(np.clip(_QUEUE_MS / timed(call, 3).min(), 1, _MOST_QUEUED))
