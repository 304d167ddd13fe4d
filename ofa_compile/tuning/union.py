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
from ofa_compile.tuning.separables import separables


def workload_union(
    space: SearchSpace,
    resolutions: Iterable[int],
    *,
    num_classes: int | None = None,
    family: Family = "cpu",
    batch: int = 1,
    precision: str = "fp32",
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
    family, batch, precision
        What the workloads run on, how many images at a time, in which numbers.

    Raises
    ------
    ArchitectureError
        If the space does not admit a resolution.
    """
    slots = slots_of(space)
    shares = [_shares(space, slot) for slot in slots]
    expected: Counter[Workload] = Counter()
    chosen = list(resolutions)
    for resolution in chosen:
        for slot_index, _, layers in slot_layers(space, resolution, num_classes):
            places = len(slots[slot_index].combinations) * len(chosen)
            for feeds_pool, share in shares[slot_index].items():
                found = workloads_of(layers, family, batch, precision, feeds_pool=feeds_pool)
                both = separables(found) if family == "gpu" else []
                for workload in (*found, *both):
                    expected[workload] += share / places  # type: ignore[assignment]  # fractions
    return dict(expected)


def _shares(space: SearchSpace, slot: Slot) -> dict[bool, float]:
    """Return the share of uniformly drawn subnets that have the slot's block.

    By whether a global pool reads it, which ends some networks' last stage; none of zero.
    """
    stage, number = slot.key
    if stage not in range(space.num_stages):
        return {False: 1.0}
    depths = [space.base_depths[stage] + depth for depth in space.stage_depths[stage]]
    is_read = stage == space.num_stages - 1 and _head_pools_first(space)
    last = depths.count(number + 1) / len(depths) if is_read else 0.0
    before = sum(depth > number for depth in depths) / len(depths) - last
    return {feeds: share for feeds, share in ((False, before), (True, last)) if share > 0}


def _head_pools_first(space: SearchSpace) -> bool:
    layers = space.layers(space.smallest())
    return next(layer.kind for layer in layers if layer.stage == space.num_stages) == "global_pool"
