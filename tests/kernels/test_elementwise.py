from __future__ import annotations

import numpy as np
from kernel_harness import Machine

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    ChangeLayout,
    GlobalPool,
    Pointwise,
    ScaleChannels,
    ScaleWeights,
)
from ofa_compile.kernels.elementwise import FLAT_TILE, WEIGHT_ROWS
from ofa_compile.kernels.pointwise import block_widths


def test_flat_tile_edges(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    sizes = (1, lanes - 1, lanes + 1, FLAT_TILE - 1, FLAT_TILE, FLAT_TILE + 1, 2 * FLAT_TILE)
    machine.check(*(Add(size, "relu") for size in sizes), rng=rng)
    names = ("relu", "relu6", "hsigmoid", "hswish")
    machine.check(
        *(Activate(2 * FLAT_TILE + 7, name) for name in names), Activate(5, "relu"), rng=rng
    )


def test_scale_channels(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    channels = (1, lanes - 1, lanes, 2 * lanes + 3)
    machine.check(*(ScaleChannels(2, 5, n) for n in channels), ScaleChannels(1, 1, 7), rng=rng)


def test_scale_weights(machine: Machine, rng: np.random.Generator) -> None:
    depths = (1, WEIGHT_ROWS - 1, WEIGHT_ROWS, WEIGHT_ROWS + 1, 2 * WEIGHT_ROWS)
    work = [ScaleWeights(depth, (8, 8, 5)) for depth in depths]
    pointwise = Pointwise(50, 20, 3 * machine.core.lanes + 5, has_dynamic_weights=True)
    widths = block_widths(pointwise, machine.configs(pointwise)[0], machine.core)
    machine.check(*work, ScaleWeights(20, widths), rng=rng)


def test_change_layout(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(
        *(
            ChangeLayout(batch, channels, positions, destination)
            for destination in ("nhwc", "nchw")
            for batch, channels, positions in ((1, 3, 20), (2, 17, 6), (1, 1, 4))
        ),
        rng=rng,
    )


def test_global_pool(machine: Machine, rng: np.random.Generator) -> None:
    block = 4 * machine.core.lanes
    channels = (1, 3, block - 1, block, block + 1, 2 * block + 5)
    machine.check(*(GlobalPool(1, 9, n) for n in channels), rng=rng)
    machine.check(GlobalPool(3, 1, 10), GlobalPool(2, 50, block), rng=rng)


def test_a_round_trip_of_layouts_is_the_identity() -> None:
    core = VectorMachine(8, 16, False)
    there = ChangeLayout(2, 3, 20, "nhwc")
    kernel = find_kernel(there)
    assert kernel is not None
    assert kernel.num_tiles(there, {}, core) == 40
    assert kernel.num_tiles(ChangeLayout(2, 3, 20, "nchw"), {}, core) == 6
