"""Figures of a GPU benchmark: what is computed from times, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import table
from gpu_runtimes import OURS, is_timed_by_host, precision_of
from gpu_shares import Limits, moved_bytes, percent, shares, work_per_second

from ofa_compile.space import Architecture

HEADER = (
    "subnet", "precision", "batch", "ours, ms", "GFLOP/s", "of peak", "GB/s", "of bandwidth",
    "best other", "ms", "ratio", "ratio, end to end",
)  # fmt: skip


def summary(
    turns: Mapping[str, Sequence[float]], facts: Mapping[str, Any], name: str, known: Limits
) -> dict[str, Any]:
    """Return medians over rounds, their spread, what is done in a second, and of which limits.

    Parameters
    ----------
    turns
        Milliseconds of each round, of `device_ms` and of `end_to_end_ms`.
    facts, name
        Network and runtime.
    known
        The device's limits.
    """
    figures: dict[str, Any] = {"rounds": len(turns["end_to_end_ms"])}
    for what, milliseconds in turns.items():
        low, middle, high = np.percentile(milliseconds, (16, 50, 84))
        figures |= {what: middle, f"{what}_spread": (high - low) / 2 / middle}
    precision = precision_of(name, facts)
    architecture = Architecture.from_dict(facts["architecture"])
    moved = moved_bytes(architecture, facts["batch"], precision)
    work = work_per_second(facts["macs"], moved, figures["device_ms"])
    return {
        **figures,
        "precision": precision,
        "bytes": moved,
        "images_per_s": 1e3 * facts["batch"] / figures["device_ms"],
        **work,
        **shares(work, precision, known),
    }


def name_of(facts: Mapping[str, Any]) -> str:
    """Return how a network is called in lines of text."""
    return f"{facts['subnet']} {facts['precision']} batch {facts['batch']}"


def row_text(result: Mapping[str, Any]) -> str:
    """Return one line about a network."""
    times = {
        name: f"{figures['device_ms']:.3f} ms" if "device_ms" in figures else "failed"
        for name, figures in result["runtimes"].items()
    }
    return f"{name_of(result)}: " + ", ".join(f"{name} {text}" for name, text in times.items())


def summary_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each network: ours, and the best of the others in the same arithmetic."""
    return table(HEADER, [_row(result) for result in results])


def _row(result: Mapping[str, Any]) -> tuple[object, ...]:
    known = {name: f for name, f in result["runtimes"].items() if "device_ms" in f}
    start = (result["subnet"], result["precision"], result["batch"])
    ours = known.pop(OURS, None)
    others = {n: f for n, f in known.items() if f["precision"] == result["precision"]}
    best = min(others, key=lambda name: others[name]["device_ms"], default=None)
    rival: tuple[str, ...] = ("-", "-")
    if best is not None:
        by_host = " (by host)" if is_timed_by_host(best) else ""
        rival = (f"{best}{by_host}", f"{others[best]['device_ms']:.3f}")
    if ours is None:
        return (*start, "failed", "-", "-", "-", "-", *rival, "-", "-")
    own = (
        f"{ours['device_ms']:.3f}",
        f"{ours['gflop_per_s']:.3g}",
        percent(ours["share_of_flops"]),
        f"{ours['gb_per_s']:.3g}",
        percent(ours["share_of_bandwidth"]),
    )
    if best is None:
        return (*start, *own, *rival, "-", "-")
    copied = min(figures["end_to_end_ms"] for figures in others.values())
    return (
        *start,
        *own,
        *rival,
        f"{others[best]['device_ms'] / ours['device_ms']:.2f}",
        f"{copied / ours['end_to_end_ms']:.2f}",
    )
