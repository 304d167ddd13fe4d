"""Compiles kernels for bytes into a library and calls them on guarded arrays, in this process."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.int8.epilogue import Layer, apply_epilogue, make_epilogue
from ofa_compile.compiler.int8.scheme import Int8Weight, Quantisation
from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.workload import DepthwiseInt8, PointwiseInt8, Workload
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker

Array = NDArray[Any]
_GUARD = 64
_UNTOUCHED = 0xA5


@dataclass(frozen=True)
class Int8Case:
    """A workload, its inputs and constants, and what it should write."""

    workload: Workload
    inputs: list[Array]
    constants: dict[str, Any]
    expected: Array


def draw_quantisation(rng: np.random.Generator, channels: int) -> Quantisation:
    scale = rng.uniform(0.01, 0.05, channels)
    return Quantisation(scale, rng.integers(0, 200, channels).astype(np.int32))


def draw_bytes(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(0, 256, shape).astype(np.uint8)


def as_bytes(steps: Array) -> Array:
    return np.clip(np.rint(steps), 0, 255).astype(np.uint8)


def draw_layer(
    rng: np.random.Generator, work: Any, shape: tuple[int, ...], input_zero: Array
) -> Layer:
    """Draw weights so that the outputs spread over the whole range of bytes."""
    outputs, products = shape[0], int(np.prod(shape[1:]))
    values = rng.integers(-127, 128, shape).astype(np.int8)
    spread = 1 / (5000 * np.sqrt(products))
    scale = rng.uniform(0.5, 1.5, outputs) * spread
    is_bytes = getattr(work, "writes", "bytes") == "bytes"
    return Layer(
        weight=Int8Weight(values, scale),
        bias=rng.standard_normal(outputs),
        activation=work.activation,
        input_zero=input_zero,
        residual=draw_quantisation(rng, outputs) if getattr(work, "has_residual", False) else None,
        output=draw_quantisation(rng, outputs) if is_bytes else None,
    )


def pointwise_case(work: PointwiseInt8, rng: np.random.Generator) -> Int8Case:
    x, zero = (
        draw_bytes(rng, work.rows, work.in_channels),
        rng.integers(0, 256, (1, work.in_channels)),
    )
    layer = draw_layer(rng, work, (work.out_channels, work.in_channels), zero)
    inputs, residual = [x], None
    if work.has_residual:
        residual = draw_bytes(rng, work.rows, work.out_channels)
        inputs.append(residual)
    sums = x.astype(np.int64) @ layer.weight.values.T.astype(np.int64)
    steps = apply_epilogue(sums, make_epilogue(layer), work.activation, residual)
    expected = as_bytes(steps) if work.writes == "bytes" else steps
    return Int8Case(work, inputs, {"layer": layer}, expected)


def depthwise_case(work: DepthwiseInt8, rng: np.random.Generator) -> Int8Case:
    x = draw_bytes(rng, work.batch, work.height, work.width, work.channels)
    zero = rng.integers(0, 256, (work.channels, 1))
    layer = draw_layer(rng, work, (work.channels, 1, *work.kernel), zero)
    top, left, bottom, right = work.padding
    padded = np.empty(
        (work.batch, work.height + top + bottom, work.width + left + right, work.channels), np.int64
    )
    padded[...] = zero.ravel()
    padded[:, top : top + work.height, left : left + work.width] = x
    sums = np.zeros((work.batch, work.out_height, work.out_width, work.channels), np.int64)
    for i in range(work.kernel[0]):
        for j in range(work.kernel[1]):
            rows = slice(i, i + (work.out_height - 1) * work.stride[0] + 1, work.stride[0])
            columns = slice(j, j + (work.out_width - 1) * work.stride[1] + 1, work.stride[1])
            sums += padded[:, rows, columns] * layer.weight.values[:, 0, i, j].astype(np.int64)
    expected = as_bytes(apply_epilogue(sums, make_epilogue(layer), work.activation))
    return Int8Case(work, [x], {"layer": layer}, expected)


def run_cases(
    cases: Sequence[tuple[Int8Case, Any]], target: TargetSpec, folder: Path
) -> list[Array]:
    """Run each case with a configuration; tiles are computed in two calls, the last ones first."""
    from ofa_compile.compiler.codegen import compile_object

    machine, functions = VectorMachine.of(target), {}
    for number, (case, config) in enumerate(cases):
        kernel = find_kernel(case.workload)
        assert kernel is not None
        functions[f"kernel_{number}"] = kernel.build(case.workload, config, machine)
    (folder / "kernels.o").write_bytes(compile_object(functions, target.tvm_target))
    compiler = find_linker(target).static_command[:1]
    command = [*compiler, "-shared", "-o", "kernels.so", "kernels.o"]
    subprocess.run(command, cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))
    return [
        _run(getattr(library, f"kernel_{number}"), case, config, machine)
        for number, (case, config) in enumerate(cases)
    ]


def _run(function: Any, case: Int8Case, config: Any, machine: VectorMachine) -> Array:
    kernel = find_kernel(case.workload)
    assert kernel is not None
    packed = kernel.pack(case.workload, config, machine, case.constants)
    arrays = [_aligned(np.ascontiguousarray(array)) for array in (*case.inputs, *packed)]
    output = _aligned(np.zeros(case.expected.nbytes + 2 * _GUARD, np.uint8))
    output[...] = _UNTOUCHED
    pointers = [array.ctypes.data for array in arrays] + [output.ctypes.data + _GUARD]
    tiles = kernel.num_tiles(case.workload, config, machine)
    for begin, end in ((tiles // 2, tiles), (0, tiles // 2)):
        function(
            *(ctypes.c_void_p(p) for p in pointers), ctypes.c_int32(begin), ctypes.c_int32(end)
        )
    assert (output[:_GUARD] == _UNTOUCHED).all(), f"{case.workload} wrote before its output"
    assert (output[-_GUARD:] == _UNTOUCHED).all(), f"{case.workload} wrote behind its output"
    return output[_GUARD:-_GUARD].view(case.expected.dtype).reshape(case.expected.shape)


def _aligned(array: Array) -> Array:
    """Copy to an address that is a multiple of 64, with a guard behind it."""
    memory = np.empty(array.nbytes + 2 * _GUARD, np.uint8)
    first = -memory.ctypes.data % _GUARD
    view = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view
