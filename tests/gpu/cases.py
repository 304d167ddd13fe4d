"""Workloads at sizes around the edges of the GPU kernels' tiles."""

from __future__ import annotations

import dataclasses
from typing import Any

from launches import MACHINE

from ofa_compile.compiler.kernel_registry import Config, GpuMachine, find_kernel
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    ChangeLayout,
    Convolution,
    Depthwise,
    GatedPointwise,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    Separable,
    Workload,
)


def depthwise(size: int, kernel: int, stride: int, channels: int = 8, **fields: Any) -> Depthwise:
    pad = kernel // 2
    return Depthwise(
        batch=fields.pop("batch", 1),
        height=size,
        width=size - 1,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(pad, pad, pad, pad),
        channels=channels,
        **fields,
    )


def convolution(inputs: int, outputs: int, **fields: Any) -> Convolution:
    values: dict[str, Any] = {
        "batch": 1,
        "height": 7,
        "width": 9,
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1, 1, 1),
    }
    return Convolution(in_channels=inputs, out_channels=outputs, **(values | fields))


def separable(size: int, kernel: int, outputs: int, **fields: Any) -> Separable:
    own = {name: fields.pop(name) for name in ("out_activation", "has_residual") if name in fields}
    window = depthwise(size, kernel, fields.pop("stride", 1), **fields)
    return Separable(**dataclasses.asdict(window), out_channels=outputs, **own)


def pool(**fields: Any) -> Pool:
    values: dict[str, Any] = {
        "batch": 1,
        "height": 9,
        "width": 8,
        "kernel": (3, 3),
        "stride": (2, 2),
        "padding": (1, 1, 1, 1),
        "channels": 8,
    }
    return Pool(**(values | fields))


PRODUCTS: list[Workload] = [
    Pointwise(49, 16, 24, "hswish"),
    Pointwise(7, 6, 10, "relu"),  # neither side a multiple of 4
    Pointwise(9, 40, 6, "none", True),
    Pointwise(1, 64, 12, "hsigmoid"),  # a dense layer, its depth shared by slices
    Pointwise(130, 8, 36, "relu6", True),  # rows and columns beyond whole tiles
    GatedPointwise(49, 24, 16, "relu", True),
    GatedPointwise(50, 24, 16, batch=2),
]
WINDOWS: list[Workload] = [
    depthwise(12, 3, 1, activation="relu"),
    depthwise(11, 5, 2, activation="hswish"),
    depthwise(6, 5, 1, batch=8),
    depthwise(9, 7, 1, batch=2),
    depthwise(8, 7, 2, activation="relu6"),
    depthwise(6, 3, 2, 6),
    convolution(3, 16, input_layout="nchw", stride=(2, 2), activation="hswish"),
    convolution(8, 12, has_residual=True, activation="relu"),
    convolution(6, 6, batch=2),
    convolution(8, 8, kernel=(1, 1), stride=(2, 2), padding=(0, 0, 0, 0)),
]
SEPARABLES: list[Workload] = [
    separable(16, 3, 16, channels=24, activation="relu6"),
    # Tiles beyond the map, channels beyond whole turns and columns beyond whole vectors of threads.
    separable(13, 5, 40, channels=136, activation="hswish", has_residual=True),
    separable(15, 7, 24, stride=2, batch=3, channels=72, activation="relu"),
    separable(7, 5, 168, channels=40, out_activation="relu", batch=2),
    separable(6, 3, 6, channels=10, stride=2),  # no side a multiple of 4
    separable(5, 3, 320, channels=16, has_residual=True),
]
MAPS: list[Workload] = [
    GlobalPool(2, 49, 40),
    GlobalPool(1, 4, 6),
    ScaleChannels(2, 9, 8),
    ScaleChannels(1, 9, 6),
    Add(260, "relu"),
    Add(7),
    Activate(260, "hswish"),
    ChangeLayout(2, 6, 9, "nchw"),
    ChangeLayout(1, 6, 9, "nhwc"),
    pool(),
    pool(reduction="mean"),
    pool(reduction="mean", count_padding=True, channels=6),
]

ALL = {"products": PRODUCTS, "windows": WINDOWS, "separables": SEPARABLES, "maps": MAPS}

CONFIGURED: list[Workload] = [
    Pointwise(100, 72, 40, "hswish", True),
    GatedPointwise(100, 72, 40, "none", True, batch=2),
    depthwise(14, 5, 1, activation="relu"),
    depthwise(14, 7, 2, activation="relu"),
    convolution(16, 16, has_residual=True),
    SEPARABLES[1],
]


def every_configuration(workload: Workload) -> list[tuple[Workload, Config]]:
    """Return the workload with each configuration that some machine would choose."""
    kernel = find_kernel(workload, "gpu")
    assert kernel is not None
    configs = {
        tuple(sorted(config.items()))
        for wanted in (MACHINE.wanted_threads, 1024, 100_000)
        for config in kernel.configs(workload, GpuMachine(wanted))
    }
    assert len(configs) > 1
    return [(workload, dict(config)) for config in sorted(configs)]
