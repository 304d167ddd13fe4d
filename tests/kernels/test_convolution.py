from __future__ import annotations

import dataclasses

import numpy as np
from kernel_harness import Machine

from ofa_compile.compiler.workload import Convolution


def convolution(
    size: int | tuple[int, int],
    channels: tuple[int, int],
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: tuple[int, int, int, int] | None = None,
    **fields: object,
) -> Convolution:
    """Return a workload with "same" padding unless given; `channels` is (in, out)."""
    height, width = (size, size) if isinstance(size, int) else size
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    stride = (stride, stride) if isinstance(stride, int) else stride
    half = (kernel[0] // 2, kernel[1] // 2)
    work = Convolution(
        1,
        height,
        width,
        kernel,
        stride,
        padding or (*half, *half),
        in_channels=channels[0],
        out_channels=channels[1],
    )
    return dataclasses.replace(work, **fields)  # type: ignore[arg-type]


def test_output_tile_edges(machine: Machine, rng: np.random.Generator) -> None:
    outputs = machine.configs(convolution(50, (3, 8)))[0]["outputs"]
    widths = (1, 2, outputs - 1, outputs, outputs + 1, 2 * outputs + 1, 4 * outputs - 1)
    machine.check(*(convolution((3, width), (2, 4)) for width in widths), rng=rng)


def test_stem_reads_the_image_channels_first(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(
        convolution(9, (3, 16), stride=2, input_layout="nchw", activation="hswish"),
        convolution((9, 14), (3, 8), input_layout="nchw", activation="relu"),
        convolution((7, 6), (3, 20), 7, 2, input_layout="nchw", batch=2),
        convolution((5, 7), (6, 5), input_layout="nchw"),  # more than the channels unrolled
        rng=rng,
    )


def test_stem_tile_edges(machine: Machine, rng: np.random.Generator) -> None:
    work = convolution((4, 60), (3, 16), 3, 2, input_layout="nchw", activation="hswish")
    outputs = machine.configs(work)[0]["outputs"]
    widths = {1, 2, 3, 2 * outputs - 1, 2 * outputs, 2 * outputs + 1, 6 * outputs + 3}
    machine.check(
        *(dataclasses.replace(work, width=width) for width in sorted(widths)),
        *(dataclasses.replace(work, activation=name) for name in ("relu6", "hsigmoid", "none")),
        convolution((3, 31), (4, 9), 5, 1, input_layout="nchw", activation="hswish"),
        convolution((5, 23), (1, 33), 7, 3, input_layout="nchw"),
        convolution((3, 9), (3, 6), 3, 2, input_layout="nchw", has_residual=True),
        convolution((3, 3), (2, 6), 3, 1, (4, 4, 4, 4), input_layout="nchw"),
        rng=rng,
    )


def test_vector_tails_and_blocks(machine: Machine, rng: np.random.Generator) -> None:
    lanes = machine.core.lanes
    block = machine.configs(convolution(4, (5, 1000)))[0]["vectors"] * lanes
    channels = {1, lanes - 1, lanes, lanes + 1, block - 1, block, block + 1, 2 * block + 3}
    work = [convolution((3, 4), (5, n), (3, 1)) for n in sorted(channels)]
    machine.check(*work, rng=rng)


def test_input_channel_edges(machine: Machine, rng: np.random.Generator) -> None:
    machine.check(*(convolution((3, 4), (n, 6)) for n in (1, 4, 5, 17)), rng=rng)


def test_windows(machine: Machine, rng: np.random.Generator) -> None:
    channels = (5, 6)
    machine.check(
        convolution(1, channels),
        convolution(2, channels, 7),
        convolution((7, 5), channels, 5, 2),
        convolution((7, 11), channels, (3, 5), (2, 1)),
        convolution((9, 4), channels, (1, 3), (1, 2)),
        convolution((6, 6), channels, 1, 2, (0, 0, 0, 0)),  # a strided shortcut
        convolution((8, 8), channels, 3, 2, (0, 0, 1, 1)),
        convolution((8, 8), channels, 2, 1, (1, 0, 0, 1)),
        convolution((3, 3), channels, 3, 1, (4, 4, 4, 4)),
        convolution((4, 4), channels, 1, 1, (1, 1, 1, 1)),
        rng=rng,
    )


def test_epilogues_and_batches(machine: Machine, rng: np.random.Generator) -> None:
    names = ("none", "relu", "relu6", "hsigmoid", "hswish")
    machine.check(
        *(convolution((3, 5), (5, 9), 1, activation=name) for name in names),
        convolution((3, 5), (5, 9), has_residual=True, activation="relu"),
        convolution((3, 5), (2, 3 * machine.core.lanes + 1), has_residual=True, batch=3),
        rng=rng,
    )


def test_every_configuration(machine: Machine, rng: np.random.Generator) -> None:
    work = convolution((3, 16), (5, 3 * machine.core.lanes), (2, 1), padding=(0, 0, 0, 0))
    configs = machine.configs(work)
    assert len(configs) > 2
    machine.check(*((work, config) for config in configs), rng=rng)
