"""Which share of a GPU's limits a network uses: what it needs, and what the device can do at most.

A limit that nobody measured (TF32 where PyTorch cannot round) gives no share: None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ofa_compile.space import Architecture, search_space
from ofa_compile.space.layer_spec import FLOAT32_BYTES

Limits = Mapping[str, Any]
"""`gflop_per_s` by precision, and `gb_per_s`; either may lack, or be empty."""


def join_limits(found: Sequence[Limits]) -> dict[str, Any]:
    """Return the largest of several measurements of each limit."""
    peaks: dict[str, float] = {}
    for limits in found:
        for precision, value in limits.get("gflop_per_s", {}).items():
            peaks[precision] = max(value, peaks.get(precision, 0.0))
    copies = [limits["gb_per_s"] for limits in found if "gb_per_s" in limits]
    return {"gflop_per_s": peaks, **({"gb_per_s": max(copies)} if copies else {})}


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


def step_shares(
    steps: Sequence[Mapping[str, Any]],
    milliseconds: Sequence[float],
    precision: str,
    limits: Limits,
) -> list[dict[str, Any]]:
    """Return kind, time and share of the arithmetic's peak of every kernel of ours."""
    peak = limits.get("gflop_per_s", {}).get(precision)
    return [
        {
            "kind": step["kind"],
            "ms": ms,
            "share_of_flops": 2e-6 * step["macs"] / ms / peak if peak and ms > 0 else None,
        }
        for step, ms in zip(steps, milliseconds, strict=True)
    ]


def percent(share: float | None) -> str:
    """Return a share as a table shows it."""
    return "-" if share is None else f"{100 * share:.0f} %"
