"""Pointwise convolution on the tensor cores of NVIDIA's GPUs, of halves or of float32 as TF32.

Written in C++ (`runtime/cuda_matrix.h`), since TIR has no words for fragments that a warp shares; a
kernel is that template with a workload's sizes filled in. Sums are float32. Both types are the same
but for what is in a word of 32 bits: two halves, or a float32 rounded to ten bits behind the point.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.workload import GatedPointwise, Pointwise

ROWS, COLUMNS, WORDS = 16, 8, 8
"""Of one instruction; its depth in words of 32 bits."""
WARP = 32
WARPS = 4
# Tiles of 8 columns that a warp computes from one read of its rows; 8 take 32 registers for sums.
TILES = (8, 4, 2, 1)
_ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")


def matrix_configs(w: Pointwise, machine: GpuMachine):
    """Widths of a warp's tile, the largest that fills the machine first; none where none fits."""
    half_step = WORDS // 2 * _word_values(machine)
    if not machine.has_matrix_units or w.in_channels % half_step or w.out_channels % COLUMNS:
        return []
    widths = [n for n in TILES if n == 1 or n * COLUMNS <= w.out_channels]
    filled = [n for n in widths if _threads(w, n) >= machine.wanted_threads]
    rest = [n for n in reversed(widths) if n not in filled]
    return [{"matrix_tiles": n} for n in filled + rest]


def _word_values(machine: GpuMachine) -> int:
    """Values in a word of 32 bits."""
    return 2 if machine.value_type == "float16" else 1


def _grid(w: Pointwise, tiles: int) -> tuple[int, int, int]:
    rows = math.ceil(w.rows / (ROWS * WARPS))
    return rows, math.ceil(w.out_channels / (COLUMNS * tiles)), 1


def _threads(w: Pointwise, tiles: int) -> int:
    return math.prod(_grid(w, tiles)) * WARP * WARPS


def pack_matrix(w: Pointwise, machine: GpuMachine, constants):
    """Arrange weights as a warp's threads take them, and the bias as it is.

    (out_channels, in_channels) -> (tile of 8 columns, step of 8 words, thread, 2 words): thread
    `4 g + m` has column g and, of the step, words m and m + 4. TF32 is rounded here, once for all.
    """
    values = _word_values(machine)
    steps = math.ceil(w.in_channels / (WORDS * values))
    weight = np.zeros((w.out_channels, steps * WORDS * values), np.float32)
    weight[:, : w.in_channels] = constants["weight"].reshape(w.out_channels, w.in_channels)
    if machine.value_type == "float32":
        weight = _as_tf32(weight)
    parts = weight.reshape(w.out_channels // COLUMNS, COLUMNS, steps, 2, 4, values)
    packed = parts.transpose(0, 2, 1, 4, 3, 5)  # tile, step, column, member, half of step, value
    return [np.ascontiguousarray(packed), constants["bias"]]


def _as_tf32(values):
    """Round float32 to TF32 as the device's `cvt.rna` does: to the nearest, ties away from 0."""
    return ((values.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def matrix_source(w: Pointwise, config, machine: GpuMachine) -> KernelSource:
    """Spell the kernel."""
    is_gated = isinstance(w, GatedPointwise)
    words = f"ofa_{machine.value_type}_words"
    value = f"{words}::value"
    tiles = config["matrix_tiles"]
    names = ["x"] + ["residual"] * w.has_residual + ["gate"] * is_gated + ["weight", "bias", "y"]
    types = {"weight": "const uint2", "y": value}
    parameters = [f"{types.get(n, f'const {value}')} *__restrict__ {n}" for n in names]
    numbers = (
        words,
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
        bindings=(machine.value_type,) * len(names),
        scalars=(),
        parameters=(True,) * len(names),
        threads=(WARP, WARPS, 1),
        grid=_grid(w, tiles),
        is_folded=False,
        base_types=frozenset({machine.value_type}),
    )
