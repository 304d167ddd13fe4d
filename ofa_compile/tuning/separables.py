"""Pairs of workloads that one kernel of a GPU can compute: what to tune, and what was chosen."""

from __future__ import annotations

from collections.abc import Container, Sequence
from itertools import pairwise

from ofa_compile.compiler.workload import Separable, Workload


def separables(workloads: Sequence[Workload]) -> list[Separable]:
    """Return what can be computed together of workloads in the order of execution."""
    found = (Separable.of(first, second) for first, second in pairwise(workloads))
    return [workload for workload in found if workload is not None]


def joined(workloads: Sequence[Workload], chosen: Container[str]) -> list[Workload]:
    """Replace pairs by the workload for both where its key is among those chosen."""
    result: list[Workload] = []
    for workload in workloads:
        both = Separable.of(result[-1], workload) if result else None
        if both is not None and both.key in chosen:
            result[-1] = both
        else:
            result.append(workload)
    return result
