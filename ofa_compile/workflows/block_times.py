"""Where the time of a compiled subnet goes, block by block: measured inside its library."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import Any

import numpy as np

from ofa_compile.bundle.bundle import Bundle
from ofa_compile.compiler.workload import Pointwise, Workload
from ofa_compile.hardware.target_spec import GPU_KINDS, Family
from ofa_compile.space import Architecture, search_space
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.separables import joined

_ROUNDS = 15
_RUNS_PER_ROUND = 6


def measure_blocks(bundle: Bundle, architecture: Architecture) -> list[dict[str, Any]] | None:
    """Time every block of a bundle's subnet on this machine, with one thread.

    The bundle's library is unloaded afterwards.

    Returns
    -------
    stage, block, ms and num_calls of each block in execution order; ms is the median over rounds.
    None where the machine cannot run the bundle, or its calls are not those of the blocks.
    """
    if not bundle.is_native:
        return None
    manifest = bundle.manifest
    family: Family = "gpu" if manifest.target["tvm_target"]["kind"] in GPU_KINDS else "cpu"
    sizes = _calls_per_block(
        architecture,
        family,
        manifest.input_shape[0],
        manifest.precision,
        manifest.network.get("separable_kernels", ()),
    )
    with bundle.library as library:
        noise = np.random.default_rng(0).standard_normal(library.input_shape, dtype=np.float32)
        rounds = [
            np.median(library.time_steps(noise, repeats=_RUNS_PER_ROUND, warmup=2), axis=0)
            for _ in range(_ROUNDS)
        ]
    steps = np.array(rounds)
    if steps.shape[1] != sum(sizes.values()):
        return None
    bounds = np.cumsum([0, *sizes.values()])
    return [
        {
            "stage": stage,
            "block": block,
            "ms": float(np.median(steps[:, bounds[place] : bounds[place + 1]].sum(axis=1))),
            "num_calls": size,
        }
        for place, ((stage, block), size) in enumerate(sizes.items())
    ]


def _calls_per_block(
    architecture: Architecture,
    family: Family = "cpu",
    batch: int = 1,
    precision: str = "fp32",
    separable: Collection[str] = (),
) -> dict[tuple[int, int], int]:
    """Return how many kernels the compiler calls for each (stage, block), in execution order.

    `separable` are the keys of workloads that one kernel computes in place of two.
    """

    def _workloads(group: Iterable[LayerSpec]) -> list[Workload]:
        return workloads_of(list(group), family, batch, precision)

    layers = search_space(architecture.space).layers(architecture)
    grouped = groupby(layers, key=lambda layer: (layer.stage, layer.block))
    return {
        key: sum(map(_num_calls, joined(_workloads(group), separable))) for key, group in grouped
    }


def _num_calls(workload: Workload) -> int:
    # Weights that squeeze-excite scales are scaled by a call of its own.
    return 2 if isinstance(workload, Pointwise) and workload.has_dynamic_weights else 1
