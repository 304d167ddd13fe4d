"""Which constants each step fetches from memory for the steps after it.

Weights are read once a run, so they come from memory, or from a cache that others share; matrix
products over maps leave the path to memory idle. Their inner loops therefore touch the coming
constants, a line at a time, which costs them next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ofa_compile.compiler.plan import Plan, round_up

# About 10 GB/s at 57 G multiply-adds a second. Measured with weights in huge pages: 1-3 % faster
# than half of it, also while a neighbour kept the last-level cache busy.
MACS_PER_BYTE = 6
LINE_BYTES = 64


@dataclass(frozen=True)
class Fetch:
    """What one step fetches: at its inner step i, the line at `start + 4 * i * stride` bytes."""

    start: int
    stride: int


def schedule_fetches(plan: Plan, offsets: Sequence[int], blob_bytes: int) -> list[Fetch]:
    """Decide for every step, as late as possible: what waits long in a cache may be evicted.

    Parameters
    ----------
    plan
        The steps; `fetch_steps` of each says how many lines it can fetch.
    offsets
        Where each constant lies in the blob, in bytes.
    blob_bytes
        Size of the blob.
    """
    ends = _needed_before_end(plan, offsets)
    schedule = []
    fetched = ends[-1] if ends else 0
    for step, needed in zip(reversed(plan.steps), reversed(ends), strict=True):
        start = max(needed, fetched - fetch_capacity(step.fetch_steps, step.workload.macs))
        schedule.append(_fetch(start, fetched - start, step.fetch_steps, blob_bytes))
        fetched = min(fetched, start)
    return schedule[::-1]


def fetch_capacity(steps: int, macs: int) -> int:
    """Return how many bytes a kernel of so many inner steps and multiply-adds fetches at most."""
    return min(LINE_BYTES * steps, macs // MACS_PER_BYTE)


def _fetch(start: int, size: int, steps: int, blob_bytes: int) -> Fetch:
    if size <= 0 or steps == 0:
        return Fetch(0, 0)
    stride = math.ceil(size / (4 * steps))
    # The last lines may be fetched twice, but nothing beyond the blob.
    start = min(start, blob_bytes - 4 * stride * steps)
    return Fetch(start, stride) if start >= 0 else Fetch(0, 0)


def _needed_before_end(plan: Plan, offsets: Sequence[int]) -> list[int]:
    """For each step, how much of the blob it and those before it read."""
    ends, position = [], 0
    for step in plan.steps:
        for ref in step.arguments:
            if ref.space == "constant":
                end = offsets[ref.index] + round_up(plan.constants[ref.index].nbytes)
                position = max(position, end)
        ends.append(position)
    return ends
