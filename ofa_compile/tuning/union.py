"""Every distinct workload of a search space, and how often a random subnet has it.

A block's layers depend on a few genes only, so each combination of those is looked at once; no
subnet is walked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ofa_compile.compiler.workload import Workload
from ofa_compile.hardware.target_spec import Family
from ofa_compile.predictors.slot_tables import Slot, slot_layers, slots_of
from ofa_compile.space.search_space import SearchSpace
from ofa_compile.tuning.layer_workloads import workloads_of


def workload_union(
    space: SearchSpace,
    resolutions: Iterable[int],
    *,
    num_classes: int | None = None,
    family: Family = "cpu",
    batch: int = 1,
) -> dict[Workload, float]:
    """Return all workloads with their expected number in a uniformly drawn subnet.

    Parameters
    ----------
    space
        The search space.
    resolutions
        Input sizes, equally likely; any that the space admits.
    num_classes
        Outputs of the classifier; the space's default if not given.
    family, batch
        What the workloads run on, and how many images at a time.

    Raises
    ------
    ArchitectureError
        If the space does not admit a resolution.
    """
    slots = slots_of(space)
    expected: Counter[Workload] = Counter()
    chosen = list(resolutions)
    for resolution in chosen:
        for slot_index, _, layers in slot_layers(space, resolution, num_classes):
            slot = slots[slot_index]
            share = _presence(space, slot) / (len(slot.combinations) * len(chosen))
            for workload in workloads_of(layers, family, batch):
                expected[workload] += share  # type: ignore[assignment]  # fractions of a count
    return dict(expected)


def _presence(space: SearchSpace, slot: Slot) -> float:
    """Return the share of uniformly drawn subnets that have the slot's block."""
    if slot.depth_column is None:
        return 1.0
    stage, number = slot.key
    depths = [space.base_depths[stage] + depth for depth in space.stage_depths[stage]]
    return sum(depth > number for depth in depths) / len(depths)
