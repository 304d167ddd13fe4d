"""Convolutions on the tensor cores of NVIDIA's GPUs, of halves or of float32 as TF32.

Written in C++ (`runtime/cuda_matrix.h`), whose fragments are loaded in an order that spares half of
the loads; a kernel is that template with a workload's sizes filled in. Sums are float32. Both types
are the same but for what is in a word of 32 bits: two halves, or a float32 rounded to ten bits
behind the point. A convolution with a window is the same product of more depth (implicit GEMM).
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.workload import Convolution, GatedPointwise, Pointwise

ROWS, COLUMNS, WORDS = 16, 8, 8
"""Of one instruction; its depth in words of 32 bits."""
WARP = 32
WARPS = 4
# What a warp computes from one read of its factors, in instructions' (rows, columns); 2 x 8 take 64
# registers for sums.
TILES = ((2, 8), (1, 8), (1, 4), (1, 2), (1, 1))
# A workgroup's warps share the depth of one tile where rows are few, but not for fewer steps each.
MIN_STEPS = 2
_ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")

Product: TypeAlias = Pointwise | Convolution


def matrix_configs(w: Product, machine: GpuMachine):
    """Choose a warp's tiles, the largest that fills the machine first; none where none fits."""
    pair = 2 * _word_values(machine)  # of words, which a thread reads at once
    if not machine.has_matrix_units or w.in_channels % pair or w.out_channels % COLUMNS:
        return []
    if isinstance(w, Convolution) and w.input_layout != "nhwc":
        return []
    fits = [
        (m, n, slices)
        for slices in (1, WARPS)
        for m, n in TILES
        if (m == 1 or _rows(w) > ROWS) and (n == 1 or n * COLUMNS <= w.out_channels)
        if slices == 1 or (m == 1 and _steps(w, machine) >= slices * MIN_STEPS)
    ]
    fits.sort(key=lambda tile: (-tile[0] * tile[1], tile[2]))
    filled = [tile for tile in fits if _threads(w, *tile) >= machine.wanted_threads]
    rest = sorted((tile for tile in fits if tile not in filled), key=lambda t: -_threads(w, *t))
    return [
        {"matrix_rows": m, "matrix_columns": n, "slices": slices} for m, n, slices in filled + rest
    ]


def is_matrix(config) -> bool:
    """Tell whether a configuration is one of `matrix_configs`."""
    return "matrix_rows" in config


def _word_values(machine: GpuMachine) -> int:
    """Values in a word of 32 bits."""
    return 2 if machine.value_type == "float16" else 1


def _rows(w: Product) -> int:
    """Rows of the product: pixels of the result."""
    return w.rows if isinstance(w, Pointwise) else w.batch * w.out_height * w.out_width


def _steps(w: Product, machine: GpuMachine) -> int:
    """Instructions for the channels of one pixel."""
    return math.ceil(w.in_channels / (WORDS * _word_values(machine)))


def _grid(w: Product, rows: int, columns: int, slices: int) -> tuple[int, int, int]:
    across = math.ceil(w.out_channels / (COLUMNS * columns))
    return math.ceil(_rows(w) / (ROWS * rows * WARPS // slices)), across, 1


def _threads(w: Product, rows: int, columns: int, slices: int) -> int:
    return math.prod(_grid(w, rows, columns, slices)) * WARP * WARPS


def pack_matrix(w: Product, machine: GpuMachine, constants):
    """Arrange weights as a warp's threads take them, and the bias as it is.

    (out_channels, in_channels, window) -> (tile of 8 columns, position in the window, step of
    8 words, thread, 2 words): thread `4 g + m` has column g and, of the step, words 2 m and
    2 m + 1. TF32 is rounded here, once for all.
    """
    step, steps = WORDS * _word_values(machine), _steps(w, machine)
    weight = constants["weight"].reshape(w.out_channels, w.in_channels, -1)
    padded = np.zeros((w.out_channels, weight.shape[2], steps * step), np.float32)
    padded[..., : w.in_channels] = weight.transpose(0, 2, 1)
    if machine.value_type == "float32":
        padded = _as_tf32(padded)
    parts = padded.reshape(w.out_channels // COLUMNS, COLUMNS, -1, step)
    return [np.ascontiguousarray(parts.transpose(0, 2, 1, 3)), constants["bias"]]


def _as_tf32(values):
    """Round float32 to TF32 as the device's `cvt.rna` does: to the nearest, ties away from 0."""
    return ((values.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def matrix_source(w: Product, config, machine: GpuMachine) -> KernelSource:
    """Spell the kernel."""
    words = f"ofa_{machine.value_type}_words"
    value = f"{words}::value"
    is_gated = isinstance(w, GatedPointwise)
    names = ["x"] + ["residual"] * w.has_residual + ["gate"] * is_gated + ["weight", "bias", "y"]
    types = {"weight": "const uint2", "y": value}
    parameters = [f"{types.get(n, f'const {value}')} *__restrict__ {n}" for n in names]
    tile = config["matrix_rows"], config["matrix_columns"], config["slices"]
    numbers = (
        words,
        _map(w),
        _rows(w),
        w.out_channels,
        *tile,
        _ACTIVATIONS.index(w.activation),
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
        grid=_grid(w, *tile),
        is_folded=False,
        base_types=frozenset({machine.value_type}),
    )


def _map(w: Product) -> str:
    """Spell where the product's rows lie in the map."""
    if isinstance(w, Pointwise):
        image = w.rows // w.batch if isinstance(w, GatedPointwise) else 0
        return f"ofa_rows<{w.in_channels}, {image}>"
    sizes = (w.height, w.width, w.out_height, w.out_width, *w.kernel, *w.stride, *w.padding[:2])
    return f"ofa_window<{w.in_channels}, {', '.join(map(str, sizes))}>"
