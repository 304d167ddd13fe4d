from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from kernel_harness import Machine

from ofa_compile.compiler.kernel_registry import (
    Config,
    VectorMachine,
    count_fetch_steps,
    find_kernel,
)
from ofa_compile.compiler.workload import Pointwise
from ofa_compile.kernels import pointwise, pointwise_lanes
from ofa_compile.kernels.pointwise import PointwiseKernel, block_widths, pack_weights

ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")


def plan_blocks(work: Pointwise, config: Config, core: VectorMachine) -> list[Any]:
    kind = pointwise_lanes if core.has_lane_multiply else pointwise
    return list(kind.plan_blocks(work, config, core))


def test_row_tile_edges(machine: Machine, rng: np.random.Generator) -> None:
    channels = machine.core.lanes + 1
    config = machine.configs(Pointwise(1000, 8, channels))[0]
    rows = plan_blocks(Pointwise(1000, 8, channels), config, machine.core)[0].rows
    edges = {1, 2, rows - 1, rows, rows + 1, 2 * rows, 2 * rows + 1, 3 * rows - 1} - {0}
    machine.check(*(Pointwise(n, 8, channels) for n in sorted(edges)), rng=rng)


def test_channel_block_and_vector_tail_edges(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    block = machine.configs(Pointwise(9, 4, 1000))[0]["vectors"] * lanes
    tails = {1, 3, lanes - 1, lanes, lanes + 1, 2 * lanes - 1}
    edges = tails | {block - 1, block, block + 1, 2 * block + lanes // 2 + 1}
    machine.check(*(Pointwise(9, 4, n) for n in sorted(edges)), rng=rng)


@pytest.mark.parametrize("rows", [1, 6])
def test_depth_edges(machine: Machine, rng: np.random.Generator, rows: int) -> None:
    # Four steps at once where a lane can be the multiplier, and depths that this does not divide.
    machine.check(*(Pointwise(rows, depth, 10) for depth in (1, 2, 3, 4, 5, 7, 8, 33)), rng=rng)


def test_one_row_blocks(machine: Machine, rng: np.random.Generator) -> None:
    block = 8 * machine.core.lanes
    sizes = (block - 1, block, block + 1, 2 * block + 3)
    machine.check(*(Pointwise(1, 12, n) for n in sizes), rng=rng)


def test_epilogues(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(
        *(Pointwise(7, 5, 19, name) for name in ACTIVATIONS),
        *(Pointwise(7, 5, 19, name, has_residual=True) for name in ("none", "relu")),
        Pointwise(1, 6, 9, "hswish", has_residual=True),
        rng=rng,
    )


def test_every_configuration(machine: Machine, rng: np.random.Generator) -> None:
    work = Pointwise(15, 5, 4 * machine.core.lanes, has_residual=True)
    configs = machine.configs(work)
    assert len(configs) > 2
    machine.check(*((work, config) for config in configs), rng=rng)


CORES = (VectorMachine(16, 32, False), VectorMachine(8, 16, False))
LANE_CORES = (VectorMachine(4, 32, True), VectorMachine(4, 16, True))


def random_plans(
    core: VectorMachine, rng: np.random.Generator
) -> Iterator[tuple[Pointwise, list[Any]]]:
    """Yield workloads and blocks of their plans, whose panels and tiles are checked here."""
    for _ in range(200):
        rows, depth, channels = (int(n) for n in rng.integers(1, (800, 100, 700)))
        work = Pointwise(rows, depth, channels)
        kernel = find_kernel(work)
        assert kernel is not None
        for config in kernel.configs(work, core):
            blocks = plan_blocks(work, config, core)
            assert sum(block_widths(work, config, core)) == channels
            assert kernel.num_tiles(work, config, core) == sum(b.num_tiles for b in blocks)
            yield work, blocks


@pytest.mark.parametrize("core", CORES)
def test_plan_covers_every_output_once_and_fits_the_registers(
    core: VectorMachine, rng: np.random.Generator
) -> None:
    for work, blocks in random_plans(core, rng):
        for block in blocks:
            covered = (block.row_tiles - 1) * block.rows + block.last_rows
            assert covered == work.rows
            assert 1 <= block.last_rows <= block.rows
            pieces = len(block.pieces)
            fits = block.rows * pieces + pieces + 1 <= core.registers
            assert fits or block.rows == 1


@pytest.mark.parametrize("core", LANE_CORES)
def test_plan_with_lanes_covers_every_output_once_and_fits_the_registers(
    core: VectorMachine, rng: np.random.Generator
) -> None:
    for work, blocks in random_plans(core, rng):
        for block in blocks:
            assert block.whole_tiles * block.rows + block.last_rows == work.rows
            assert 0 <= block.last_rows < block.rows
            assert 1 <= block.unroll <= work.in_channels
            needed = block.rows * (len(block.pieces) + block.step // 4) + 2
            assert needed <= core.registers or block.rows == 1


def test_strips_of_row_tiles(machine: Machine, rng: np.random.Generator) -> None:
    # More row tiles than a strip holds; few weights, which stay in the cache, and many.
    shapes = ((150, 8, 12), (131, 24, 72), (67, 16, 5), (61, 40, 40), (59, 72, 64))
    machine.check(*(Pointwise(*shape, "hswish") for shape in shapes), rng=rng)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_long_sums(machine: Machine, rng: np.random.Generator, name: str) -> None:
    # Depths around the multiples of what the loop over channels takes at once.
    depths = (15, 16, 20, 23, 24, 25, 40, 48, 49, 120)
    machine.check(*(Pointwise(9, n, 24, name) for n in depths), rng=rng)


def test_packing_is_a_permutation(rng: np.random.Generator) -> None:
    work, core = Pointwise(9, 6, 37), CORES[0]
    config = {"vectors": 2, "rows": 4}
    weight = rng.permutation(37 * 6).reshape(37, 6).astype(np.float32)
    packed = pack_weights(work, config, core, weight)
    assert sorted(packed) == list(range(37 * 6))
    assert packed[:32].tolist() == weight[:32, 0].tolist()
    assert packed[-5:].tolist() == weight[32:, 5].tolist()


def test_weights_as_an_input(machine: Machine, rng: np.random.Generator) -> None:
    works = [Pointwise(20, 9, 21, "relu", residual, True) for residual in (False, True)]
    kernel = find_kernel(works[0])
    assert kernel is not None
    constants = {"bias": np.zeros(21, np.float32)}
    (packed,) = kernel.pack(works[0], machine.configs(works[0])[0], machine.core, constants)
    assert not packed.any()  # the bias alone, once or repeated
    machine.check(*works, rng=rng)


@pytest.mark.parametrize("core", CORES)
def test_only_products_over_maps_fetch(core: VectorMachine) -> None:
    steps = {}
    for rows in (1, 49):
        work = Pointwise(rows, 12, 40)
        kernel = find_kernel(work)
        assert kernel is not None
        config = kernel.configs(work, core)[0]
        steps[rows] = count_fetch_steps(kernel, work, config, core)
        tiles = kernel.num_tiles(work, config, core)
    assert steps == {1: 0, 49: 0 if core.has_lane_multiply else 12 * tiles}


def test_a_fetching_kernel_has_two_more_parameters() -> None:
    work, core = Pointwise(49, 12, 40), CORES[0]
    kernel = PointwiseKernel()
    config = kernel.configs(work, core)[0]
    plain = kernel.build(work, config, core)
    fetching = kernel.build(work, config, core, fetches=True)
    assert [p.name for p in fetching.params[len(plain.params) :]] == ["coming", "stride"]
    # Both fetch the next panel of their own weights.
    counts = [str(function.script()).count("prefetch") for function in (plain, fetching)]
    assert counts[1] == 2 * counts[0] > 0


def test_wide_vectors_prefer_one_vector_of_outputs_except_beside_a_tail() -> None:
    avx512, kernel = CORES[0], PointwiseKernel()
    default = {n: kernel.configs(Pointwise(784, 120, n), avx512)[0] for n in (24, 40, 80)}
    assert [default[n]["vectors"] for n in (24, 40, 80)] == [1, 3, 1]
