"""Pointwise convolution of halves on the tensor cores of NVIDIA's GPUs.

Written in C++ (`runtime/cuda_matrix.h`), since TIR has no words for fragments that a warp shares; a
kernel is that template with a workload's sizes filled in. Sums are float32.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.workload import GatedPointwise, Pointwise

ROWS, COLUMNS, DEPTH = 16, 8, 16
"""Of one instruction."""
WARP = 32
WARPS = 4
# Tiles of 8 columns that a warp computes from one read of its rows; 8 take 32 registers for sums.
TILES = (8, 4, 2, 1)
_ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")


def matrix_configs(w: Pointwise, machine: GpuMachine):
    """Widths of a warp's tile, the largest that fills the machine first; none where none fits."""
    if not machine.has_matrix_units or w.in_channels % 8 or w.out_channels % COLUMNS:
        return []
    widths = [n for n in TILES if n == 1 or n * COLUMNS <= w.out_channels]
    filled = [n for n in widths if _threads(w, n) >= machine.wanted_threads]
    rest = [n for n in reversed(widths) if n not in filled]
    return [{"matrix_tiles": n} for n in filled + rest]


def _grid(w: Pointwise, tiles: int) -> tuple[int, int, int]:
    rows = math.ceil(w.rows / (ROWS * WARPS))
    return rows, math.ceil(w.out_channels / (COLUMNS * tiles)), 1


def _threads(w: Pointwise, tiles: int) -> int:
    return math.prod(_grid(w, tiles)) * WARP * WARPS


def pack_matrix(w: Pointwise, constants):
    """Arrange weights as a warp's threads take them, and the bias as it is.

    (out_channels, in_channels) -> (tile of 8 columns, step of 16 rows, thread, 4): thread `4 g + m`
    has column g and, of the step, rows 2 m, 2 m + 1, 2 m + 8 and 2 m + 9.
    """
    steps = math.ceil(w.in_channels / DEPTH)
    weight = np.zeros((w.out_channels, steps * DEPTH), np.float32)
    weight[:, : w.in_channels] = constants["weight"].reshape(w.out_channels, w.in_channels)
    parts = weight.reshape(w.out_channels // COLUMNS, COLUMNS, steps, 2, 4, 2)
    packed = parts.transpose(0, 2, 1, 4, 3, 5)  # tile, step, column, member, half of step, pair
    return [np.ascontiguousarray(packed), constants["bias"]]


def matrix_source(w: Pointwise, config) -> KernelSource:
    """Spell the kernel."""
    is_gated = isinstance(w, GatedPointwise)
    tiles = config["matrix_tiles"]
    names = ["x"] + ["residual"] * w.has_residual + ["gate"] * is_gated + ["weight", "bias", "y"]
    types = {"weight": "const uint2", "y": "__half"}
    parameters = [f"{types.get(n, 'const __half')} *__restrict__ {n}" for n in names]
    numbers = (
        w.rows,
        w.in_channels,
        w.out_channels,
        tiles,
        _ACTIVATIONS.index(w.activation),
        w.rows // w.batch if isinstance(w, GatedPointwise) else 0,
        "true" if w.has_residual else "false",
    )
    arguments = ["x", "residual" if w.has_residual else "nullptr"]
    arguments += ["gate" if is_gated else "nullptr", "weight", "bias", "y"]
    text = (
        '#include "cuda_matrix.h"\n'
        f'extern "C" __global__ void __launch_bounds__({WARP * WARPS})\n'
        f"{w.kind}({', '.join(parameters)}) {{\n"
        f"  ofa_product<{', '.join(map(str, numbers))}>({', '.join(arguments)});\n"
        "}\n"
    )
    return KernelSource(
        text=text,
        bindings=("float16",) * len(names),
        scalars=(),
        parameters=(True,) * len(names),
        threads=(WARP, WARPS, 1),
        grid=_grid(w, tiles),
        is_folded=False,
        base_types=frozenset({"float16"}),
    )
