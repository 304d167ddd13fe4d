"""Which share of a GPU's limits a network uses: what it needs, and what the device can do at most.

Limits are measured by PyTorch, so there are none for a Vulkan target, nor for TF32 where PyTorch
cannot round: shares of an unknown limit are None.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ofa_compile.space import Architecture, search_space
from ofa_compile.space.layer_spec import FLOAT32_BYTES

Limits = Mapping[str, Any]
"""`gflop_per_s` by precision, and `gb_per_s`; either may lack, or be empty."""

_SIDE = 8192
_COPIED = 2**28
_REPEATS = 6
# Tensor cores that round float32 to TF32 came with Ampere.
_TF32_FROM = (8, 0)


def precision_of(kind: str, facts: Mapping[str, Any]) -> str:
    """Return what a runtime computes in: ours as it was built, the others float32 or TF32."""
    if kind == "ours":
        return str(facts["precision"])
    return "tf32" if kind.endswith("-tf32") else "fp32"


def moved_bytes(architecture: Architecture, batch: int, precision: str) -> int:
    """Return the bytes that must move between layers' kernels, in the precision's element size.

    Every map is written once and read once, a residual once more, every weight read once.
    """
    layers = search_space(architecture.space).layers(architecture)
    maps = sum(
        layer.input_bytes + layer.output_bytes * (2 if layer.has_residual else 1)
        for layer in layers
    )
    float32 = batch * maps + sum(layer.weight_bytes for layer in layers)
    return float32 // FLOAT32_BYTES * (2 if precision == "fp16" else FLOAT32_BYTES)


def work_per_second(macs: int, moved: int, device_ms: float) -> dict[str, float]:
    """Return what is computed and moved in a second; `macs` and `moved` are of the whole batch."""
    return {
        "gflop_per_s": 2e-6 * macs / device_ms,
        "gb_per_s": 1e-6 * moved / device_ms,
    }


def shares(work: Mapping[str, float], precision: str, limits: Limits) -> dict[str, float | None]:
    """Return the shares of the arithmetic's peak and of the bandwidth; None of unknown ones."""
    peak = limits.get("gflop_per_s", {}).get(precision)
    bandwidth = limits.get("gb_per_s")
    return {
        "share_of_flops": work["gflop_per_s"] / peak if peak else None,
        "share_of_bandwidth": work["gb_per_s"] / bandwidth if bandwidth else None,
    }


def percent(share: float | None) -> str:
    """Return a share as a table shows it."""
    return "-" if share is None else f"{100 * share:.0f} %"


def limits_for(kind: str, measured: Limits) -> Limits:
    """Return the limits that hold for a kind of target: PyTorch's need not be of its device."""
    return measured if kind == "cuda" else {}


def limits() -> dict[str, Any]:
    """Measure what the first CUDA device can do at most, with PyTorch; empty without it."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    copied = torch.empty(_COPIED, device="cuda")
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "gflop_per_s": _peaks(torch),
        # A copy reads and writes.
        "gb_per_s": 2e-9 * copied.nbytes / _best_seconds(torch, copied.clone),
    }


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
