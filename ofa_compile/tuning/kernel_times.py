"""What tuning measured, summed by block: the strongest single feature of a latency predictor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ofa_compile.compiler.workload import Workload
from ofa_compile.hardware.target_spec import Family
from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.slot_tables import slot_layers, slots_of
from ofa_compile.space.search_space import SearchSpace
from ofa_compile.tuning.database import TuningResults
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.separables import joined


def tuned_kernel_times(
    space: SearchSpace,
    resolutions: Iterable[int],
    results: TuningResults,
    family: Family = "cpu",
    batch: int = 1,
    precision: str = "fp32",
) -> KernelTimes:
    """Add up the times of the configurations that compilations use.

    Parameters
    ----------
    space
        The search space.
    resolutions
        Which of its resolutions; those with a workload that was never timed are left out.
    results
        Trials on the target.
    family, batch, precision
        What the target is, how many images one run takes, and in which numbers.
    """
    us = {key: r.time_us for key, r in results.used().items() if r.time_us is not None}
    tables = {}
    for size in resolutions:
        table = [[0.0] * len(slot.combinations) for slot in slots_of(space)]
        is_complete = True
        for slot, combination, layers in slot_layers(space, size):
            workloads = workloads_of(layers, family, batch, precision)
            ms = _sum_ms(joined(workloads, us) if family == "gpu" else workloads, us)
            is_complete = is_complete and ms is not None
            table[slot][combination] = ms or 0.0
        if is_complete:
            tables[size] = table
    return KernelTimes(space, tables)


def _sum_ms(workloads: Sequence[Workload], us: dict[str, float]) -> float | None:
    """Return the time of a block's kernels, or None where one is not known."""
    times = [us.get(workload.key) for workload in workloads]
    known = [time for time in times if time is not None]
    return 1e-3 * sum(known) if len(known) == len(times) else None
