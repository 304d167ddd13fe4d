"""Random shapes, windows and epilogues of every kernel; seeded, so failures repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import Machine

from ofa_compile.compiler.workload import (
    Add,
    ChangeLayout,
    Convolution,
    Depthwise,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    ScaleWeights,
    Workload,
)

ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")


def draw_windowed(rng: np.random.Generator) -> dict[str, Any]:
    """Draw a map of 1..12 a side and a window that fits it with its padding."""
    while True:
        height, width = (int(n) for n in rng.integers(1, 13, 2))
        kernel = tuple(int(n) for n in rng.integers(1, 8, 2))
        padding = tuple(int(rng.integers(0, kernel[i % 2])) for i in range(4))
        stride = tuple(int(n) for n in rng.integers(1, 4, 2))
        spans = (height + padding[0] + padding[2], width + padding[1] + padding[3])
        if spans[0] >= kernel[0] and spans[1] >= kernel[1]:
            return {
                "batch": int(rng.integers(1, 3)),
                "height": height,
                "width": width,
                "kernel": kernel,
                "stride": stride,
                "padding": padding,
            }


def draw_workload(rng: np.random.Generator) -> Workload:
    channels, out_channels = (int(n) for n in rng.integers(1, 41, 2))
    activation = str(rng.choice(ACTIVATIONS))
    kind = rng.choice(["pointwise", "depthwise", "convolution", "pool", "other"])
    if kind == "pointwise":
        rows = int(rng.integers(1, 60))
        residual, dynamic = (bool(n) for n in rng.integers(0, 2, 2))
        return Pointwise(rows, channels, out_channels, activation, residual, dynamic)
    if kind == "other":
        return draw_elementwise(rng, channels, activation)
    if kind == "depthwise":
        return Depthwise(**draw_windowed(rng), channels=channels, activation=activation)
    if kind == "pool":
        window = draw_windowed(rng)
        reduction, count = str(rng.choice(["max", "mean"])), bool(rng.integers(2))
        return Pool(**window, channels=channels, reduction=reduction, count_padding=count)
    return Convolution(
        **draw_windowed(rng),
        in_channels=channels,
        out_channels=out_channels,
        activation=activation,
        has_residual=bool(rng.integers(2)),
        input_layout=str(rng.choice(["nhwc", "nchw"])),
    )


def draw_elementwise(rng: np.random.Generator, channels: int, activation: str) -> Workload:
    """Draw what reads every value once."""
    batch, positions = int(rng.integers(1, 3)), int(rng.integers(1, 60))
    choices = [
        GlobalPool(batch, positions, channels),
        ScaleChannels(batch, positions, channels),
        ScaleWeights(channels, tuple(int(n) for n in rng.choice([4, 8, 16], rng.integers(1, 4)))),
        Add(int(rng.integers(1, 300)), activation),
        ChangeLayout(batch, channels, positions, str(rng.choice(["nhwc", "nchw"]))),
    ]
    return choices[int(rng.integers(len(choices)))]


def check_random(machine: Machine, rng: np.random.Generator, count: int) -> None:
    work = []
    for _ in range(count):
        workload = draw_workload(rng)
        configs = machine.configs(workload)
        work.append((workload, configs[int(rng.integers(len(configs)))]))
    machine.check(*work, rng=rng)


def test_random_shapes(machine: Machine, rng: np.random.Generator) -> None:
    check_random(machine, rng, 8)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(10))
def test_many_random_shapes(machine: Machine, batch: int) -> None:
    check_random(machine, np.random.default_rng(batch), 40)
