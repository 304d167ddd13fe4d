from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import Machine

from ofa_compile.compiler.workload import Depthwise


def depthwise(
    size: int | tuple[int, int],
    channels: int,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: tuple[int, int, int, int] | None = None,
    activation: str = "none",
    batch: int = 1,
) -> Depthwise:
    """Return a workload with "same" padding unless given, sizes as (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    stride = (stride, stride) if isinstance(stride, int) else stride
    half = (kernel[0] // 2, kernel[1] // 2)
    padding = padding or (*half, *half)
    return Depthwise(
        batch, height, width, kernel, stride, padding, channels=channels, activation=activation
    )


def test_output_tile_edges(machine: Machine, rng: np.random.Generator) -> None:
    widest = machine.configs(depthwise(50, 8))[0]["outputs"]
    widths = (1, 2, widest - 1, widest, widest + 1, 2 * widest, 2 * widest + 1, 4 * widest + 3)
    machine.check(*(depthwise((3, width), 4) for width in widths), rng=rng)


def test_vector_tails(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    channels = {1, 3, lanes - 1, lanes, lanes + 1, 2 * lanes + lanes // 2 + 1}
    machine.check(*(depthwise(4, n) for n in sorted(channels)), rng=rng)


@pytest.mark.parametrize("stride", [1, 2])
def test_kernel_sizes_on_small_maps(
    machine: Machine, rng: np.random.Generator, stride: int
) -> None:
    # Maps of one value and maps smaller than the kernel: most taps lie outside.
    sizes = (1, 2, (3, 5), (6, 9))
    machine.check(
        *(depthwise(size, 5, kernel, stride) for kernel in (3, 5, 7) for size in sizes), rng=rng
    )


def test_unequal_windows(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(
        depthwise((7, 11), 5, (3, 5), (2, 1)),
        depthwise((11, 7), 5, (1, 7), (1, 3)),
        depthwise((8, 8), 5, (3, 3), (2, 2), (0, 0, 1, 1)),  # "same" as TensorFlow pads
        depthwise((8, 8), 5, (2, 2), (1, 1), (1, 0, 0, 1)),
        depthwise((5, 5), 5, (3, 3), (3, 3), (2, 2, 2, 2)),
        depthwise((3, 3), 5, (3, 3), (1, 1), (4, 4, 4, 4)),  # whole windows in the padding
        depthwise((6, 6), 5, (3, 3), (1, 1), (0, 0, 0, 0)),
        rng=rng,
    )


def test_batches_and_activations(machine: Machine, rng: np.random.Generator) -> None:
    names = ("relu", "relu6", "hsigmoid", "hswish")
    machine.check(
        *(depthwise((5, 6), 6, activation=name) for name in names),
        depthwise((4, 5), 2 * machine.core.lanes + 1, 5, 2, batch=3),
        rng=rng,
    )


def test_every_configuration(machine: Machine, rng: np.random.Generator) -> None:
    work = depthwise((4, 31), machine.core.lanes, 5, 2)
    configs = machine.configs(work)
    assert len(configs) > 2
    machine.check(*((work, config) for config in configs), rng=rng)


def test_maps_of_several_strips(machine: Machine, rng: np.random.Generator) -> None:
    # Rows above, inside and below where no window is clipped, in more strips than one.
    machine.check(
        depthwise((41, 9), 5, 3, activation="hswish"),
        depthwise((40, 17), 4, 3, 2, activation="relu6"),
        depthwise((39, 11), 6, 5, batch=2),
        depthwise((20, 30), 3, 7, 2, activation="hsigmoid"),
        depthwise((33, 8), 4, 3, 2, (0, 0, 1, 1)),
        rng=rng,
    )


def test_heights_around_pairs_of_rows(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(*(depthwise((n, 9), 4, 3, s) for n in range(1, 8) for s in (1, 2)), rng=rng)
