"""PyTorch on a CUDA device: networks, and what the device can do at most."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gpu_prebuilt import coarse_subnet, images
from gpu_runtimes import base_of, precision_of, queue_length, timed
from numpy.typing import NDArray

from ofa_compile.space import Architecture

_SIDE = 8192
_COPIED = 2**28
_REPEATS = 6
# Tensor cores that round float32 to TF32 came with Ampere.
_TF32_FROM = (8, 0)


class TorchOnGpu:
    """PyTorch, channels last; the name says what makes it quick.

    "torch-graph" captures the eager network, with cuDNN's own search, as one CUDA graph; others are
    modes of torch.compile, which use CUDA graphs themselves. TF32 rounds products to 10 bits.
    """

    def __init__(self, place: Path, facts: Mapping[str, Any], name: str) -> None:
        import torch

        self._torch = torch
        how, precision = base_of(name).removeprefix("torch-"), precision_of(name, facts)
        self._is_compiled = how != "graph"
        if self._is_compiled:
            # Another network of the same class counts as the same code called otherwise: for shapes
            # that vary, which is slower, or too often, and it is not compiled any more.
            torch.compiler.reset()
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        dtype = torch.float16 if precision == "fp16" else torch.float32
        architecture = Architecture.from_dict(facts["architecture"])
        subnet = coarse_subnet(architecture, place.parent / "weights.npz")
        subnet = subnet.to("cuda", dtype, memory_format=torch.channels_last)
        host = torch.from_numpy(images(architecture, facts["batch"]))
        self._host = host.contiguous(memory_format=torch.channels_last).pin_memory()
        self._x = self._host.to("cuda", dtype)
        with torch.inference_mode():
            if self._is_compiled:
                self._call = torch.compile(subnet, mode=how, dynamic=False)
            else:
                self._call = self._captured(subnet)
            for _ in range(3):
                self._call(self._x)
        torch.cuda.synchronize()
        self._queued = queue_length(self._run)

    @staticmethod
    def describe() -> str:
        """Return PyTorch's version and its device.

        Raises
        ------
        RuntimeError
            If it sees none.
        """
        import torch

        if not torch.cuda.is_available():
            message = f"PyTorch {torch.__version__} sees no CUDA device"
            raise RuntimeError(message)
        return f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}"

    def _captured(self, subnet: Any) -> Callable[[Any], Any]:
        torch = self._torch
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                subnet(self._x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = subnet(self._x)

        def call(x: Any) -> Any:
            if x is not self._x:
                self._x.copy_(x, non_blocking=True)
            graph.replay()
            return output

        return call

    def _run(self) -> None:
        with self._torch.inference_mode():
            self._call(self._x)
        self._torch.cuda.synchronize()

    def logits(self) -> NDArray[np.float32]:
        """Run once."""
        with self._torch.inference_mode():
            return np.asarray(self._call(self._x).float().cpu().numpy())

    def device_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs that are queued one behind the other."""
        torch, times = self._torch, []
        with torch.inference_mode():
            for _ in range(repeats):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                for _ in range(self._queued):
                    self._call(self._x)
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end) / self._queued)
        return np.array(times)

    def end_to_end_ms(self, repeats: int) -> NDArray[np.float64]:
        """Time runs from pinned host memory and back."""

        def call() -> None:
            # Rounded there: the processor takes longer for it than for the copy.
            x = self._host.to("cuda", non_blocking=True).to(self._x.dtype)
            self._call(x).cpu()

        with self._torch.inference_mode():
            return timed(call, repeats)

    def runs(self, repeats: int) -> int:
        """Return the runs in all queues."""
        return repeats * self._queued

    def close(self) -> None:
        """Let go of the network."""
        self._torch.cuda.synchronize()
        del self._call
        if self._is_compiled:
            self._torch.compiler.reset()
        self._torch.cuda.empty_cache()


def torch_limits() -> dict[str, Any]:
    """Measure what the first CUDA device can do at most: a large matrix product, a large copy.

    Returns
    -------
    `gflop_per_s`, by precision, and `gb_per_s`.
    """
    import torch

    copied = torch.empty(_COPIED, device="cuda")
    # A copy reads and writes.
    gb_per_s = 2e-9 * copied.nbytes / _best_seconds(torch, copied.clone)
    del copied
    found = {"gflop_per_s": _peaks(torch), "gb_per_s": gb_per_s}
    torch.cuda.empty_cache()  # others need it
    return found


def _peaks(torch: Any) -> dict[str, float]:
    """Return the speed of a large matrix product in each precision that PyTorch can multiply in."""
    a = torch.randn(_SIDE, _SIDE, device="cuda")
    half = a.half()
    settings = torch.backends.cuda.matmul
    peaks = {}
    for precision in ("fp32", "tf32", "fp16"):
        if precision == "tf32" and not _rounds(torch):
            continue
        settings.allow_tf32 = precision == "tf32"
        factor = half if precision == "fp16" else a
        seconds = _best_seconds(torch, lambda factor=factor: factor @ factor)
        peaks[precision] = 2e-9 * _SIDE**3 / seconds
    settings.allow_tf32 = False
    return peaks


def _rounds(torch: Any) -> bool:
    """Whether PyTorch's products can be TF32: the environment of the process may forbid it."""
    is_able = torch.cuda.get_device_capability() >= _TF32_FROM
    return is_able and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"


def _best_seconds(torch: Any, call: Callable[[], Any]) -> float:
    """Return the shortest of several runs by the device's clock."""
    best = float("inf")
    for _ in range(_REPEATS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return best
