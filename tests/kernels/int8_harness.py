"""Compiles kernels for bytes or halves, runs them (natively or emulated) on guarded arrays."""

from __future__ import annotations

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
from ofa_compile.hardware.toolchain import find_emulator, find_linker

Array = NDArray[Any]


@dataclass(frozen=True)
class Int8Case:
    """A workload of bytes or halves, its inputs and constants, and what it should write."""

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

    machine, functions, calls, data = VectorMachine.of(target), {}, [], []
    for number, (case, config) in enumerate(cases):
        kernel = find_kernel(case.workload)
        assert kernel is not None
        functions[f"kernel_{number}"] = kernel.build(case.workload, config, machine)
        packed = kernel.pack(case.workload, config, machine, case.constants)
        arrays = [_stored(array, machine) for array in case.inputs]
        arrays += [_as_values(array, machine) for array in packed]
        data += [array.tobytes() for array in arrays]
        sizes = [array.nbytes for array in arrays] + [case.expected.nbytes]
        calls.append((number, sizes, kernel.num_tiles(case.workload, config, machine)))
    (folder / "kernels.o").write_bytes(compile_object(functions, target.tvm_target))
    (folder / "main.c").write_text(_render(calls))
    compiler = find_linker(target).static_command
    command = [*compiler, "-std=c11", "-O1", "main.c", "kernels.o", "-o", "program", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    emulator = [] if target.is_native else find_emulator(target) or []
    command = [*emulator, str(folder / "program")]
    done = subprocess.run(command, input=b"".join(data), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    results, position = [], 0
    for case, _ in cases:
        part = done.stdout[position : position + case.expected.nbytes]
        position += case.expected.nbytes
        results.append(_read(part, case.expected, machine))
    assert position == len(done.stdout)
    return results


def _stored(array: Array, machine: VectorMachine) -> Array:
    """Return bytes as maps are stored on the machine."""
    if array.dtype == np.uint8 and machine.byte_type == "int8":
        return (array.astype(np.int16) - 128).astype(np.int8)
    return _as_values(array, machine)


def _as_values(array: Array, machine: VectorMachine) -> Array:
    """Return bytes as they are, and floats in the machine's type."""
    is_half = machine.value_type == "float16" and array.dtype.kind == "f"
    return np.ascontiguousarray(array, np.float16 if is_half else array.dtype)


def _read(data: bytes, like: Array, machine: VectorMachine) -> Array:
    if like.dtype == np.uint8 and machine.byte_type == "int8":
        signed = np.frombuffer(data, np.int8).astype(np.int16)
        return (signed + 128).astype(np.uint8).reshape(like.shape)
    return np.frombuffer(data, like.dtype).reshape(like.shape)


def _render(calls: Sequence[tuple[int, list[int], int]]) -> str:
    """Write a program that calls the kernels on data from standard input."""
    lines = [_DRIVER]
    for number, sizes, _ in calls:
        pointers = ", ".join(["void *"] * len(sizes))
        lines.append(f"void kernel_{number}({pointers}, int, int);")
    lines.append("int main(void) {")
    for number, sizes, tiles in calls:
        lines.append("    {")
        lines += [f"        void *a{i} = take({size});" for i, size in enumerate(sizes[:-1])]
        last, size = len(sizes) - 1, sizes[-1]
        lines.append(f"        unsigned char *a{last} = guarded({size});")
        names = ", ".join(f"a{i}" for i in range(len(sizes)))
        for begin, end in ((tiles // 2, tiles), (0, tiles // 2)):
            lines.append(f"        kernel_{number}({names}, {begin}, {end});")
        lines.append(f"        give(a{last}, {size}, {number});")
        lines.append("    }")
    lines += ["    return 0;", "}", ""]
    return "\n".join(lines)


# Arrays end where the memory does that may be read, give or take their alignment.
_DRIVER = """\
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
enum { GUARD = 64, PAGE = 65536, UNTOUCHED = 0xA5 };
static unsigned char *allocate(size_t size) {
    size_t span = (size + 2 * GUARD + PAGE - 1) / PAGE * PAGE;
    unsigned char *memory = mmap(NULL, span + PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + span, PAGE, PROT_NONE) != 0) exit(2);
    return memory + (span - size) / GUARD * GUARD;
}
static void *take(size_t size) {
    unsigned char *array = allocate(size);
    if (fread(array, 1, size, stdin) != size) exit(3);
    return array;
}
static unsigned char *guarded(size_t size) {
    unsigned char *array = allocate(size + GUARD);
    memset(array - GUARD, UNTOUCHED, size + 2 * GUARD);
    return array;
}
static void give(const unsigned char *array, size_t size, int number) {
    for (size_t i = 0; i < GUARD; i++) {
        if (array[-1 - (long)i] == UNTOUCHED && array[size + i] == UNTOUCHED) continue;
        fprintf(stderr, "kernel %d wrote outside its output\\n", number);
        exit(1);
    }
    fwrite(array, 1, size, stdout);
}
"""
