"""Small vocabulary in which the GPU kernels are written: launches, vectors, guards.

A buffer is an array of vectors of 4 lanes, or of scalars where a count is not a multiple of 4; one
access is then one load of the hardware, and needs no thought about alignment. Values are float32 or
float16, as the machine says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ofa_compile.compiler.tvm_api import (
    IRBuilder,
    Select,
    builder,
    const,
    tvm,
)
from ofa_compile.kernels import emit

LANES = 4
# Every Vulkan device runs workgroups of this size, with 16 KiB of shared memory.
MAX_THREADS = 128


@dataclass(frozen=True)
class Array:
    """Declaration of a parameter: its values, the lanes of one element, and their type."""

    values: int
    lanes: int = 1
    base: str | None = None
    """As the launch's values if None."""


def lanes_for(channels: int) -> int:
    """Lanes of an element of an array whose innermost dimension is `channels`."""
    return LANES if channels % LANES == 0 else 1


def dtype(lanes: int, base: str = "float32") -> str:
    """Spell the type of an element."""
    return base if lanes == 1 else f"{base}x{lanes}"


def define(
    arrays: Mapping[str, Array],
    grid: tuple[int, int, int],
    threads: tuple[int, int, int],
    body: Callable,
    values: str = "float32",
) -> tvm.tirx.PrimFunc:
    """Build the PrimFunc of one launch over arrays of a type of values.

    `body` is called with one buffer per array, the workgroup's and the thread's coordinates; a
    coordinate whose extent is 1 is the constant 0.
    """
    assert math.prod(threads) <= MAX_THREADS
    with IRBuilder() as ir:
        with builder.prim_func():
            builder.func_name("kernel")
            types = [dtype(a.lanes, a.base or values) for a in arrays.values()]
            pointers = [
                builder.arg(name, builder.ptr(kind))
                for name, kind in zip(arrays, types, strict=True)
            ]
            buffers = [
                builder.decl_buffer((max(1, a.values // a.lanes),), kind, data=pointer)
                for pointer, a, kind in zip(pointers, arrays.values(), types, strict=True)
            ]
            with ExitStack() as launches:
                block = _launch(launches, "blockIdx", grid)
                thread = _launch(launches, "threadIdx", threads)
                body(*buffers, block, thread)
        return ir.get()


def define_linear(
    arrays: Mapping[str, Array], total: int, body: Callable, values: str = "float32"
) -> tvm.tirx.PrimFunc:
    """Build a launch of `total` independent threads; `body(*buffers, index)` is one of them."""
    size = min(64, total)

    def run(*arguments):
        *buffers, block, thread = arguments
        index = block[0] * size + thread[0]
        when(None if total % size == 0 else index < total, lambda: body(*buffers, index))

    return define(arrays, (math.ceil(total / size), 1, 1), (size, 1, 1), run, values)


def _launch(launches: ExitStack, kind: str, extents: tuple[int, int, int]) -> list:
    axes = []
    for letter, extent in zip("xyz", extents, strict=True):
        # x is always launched, so that every kernel has a thread.
        if extent > 1 or letter == "x":
            axis = builder.env_thread(f"{kind}.{letter}")
            launches.enter_context(builder.launch_thread(axis, extent))
            axes.append(axis if extent > 1 else const(0, "int32"))
        else:
            axes.append(const(0, "int32"))
    return axes


def when(condition, then: Callable[[], None]) -> None:
    """Emit `if condition: then()`; without a condition, just `then()`."""
    if condition is None:
        then()
        return
    with builder.If(condition), builder.Then():
        then()


def local(count: int, lanes: int, values: str = "float32"):
    """Reserve registers: an array that is only indexed by constants."""
    return builder.alloc_buffer((count,), dtype(lanes, values), scope="local")


def shared(count: int, lanes: int, values: str = "float32"):
    """Memory that the threads of a workgroup share."""
    return builder.alloc_buffer((count,), dtype(lanes, values), scope="shared")


def barrier() -> None:
    """Wait until all threads of the workgroup are here and see what the others stored."""
    builder.evaluate(builder.tvm_storage_sync("shared"))


def put(buffer, index, value) -> None:
    """Store one element."""
    builder.buffer_store(buffer, value, [index])


def add_product(buffer, index, multiplier, vector, lanes: int) -> None:
    """Emit `buffer[index] += multiplier * vector`, the multiplier a scalar."""
    put(buffer, index, buffer[index] + emit.splat(multiplier, lanes) * vector)


def add_tile(sums, inputs, rows: int, weight, first, columns, lanes: tuple[int, int], values: str):
    """Emit the products of one element of each row of a map with the rows of weights of its lanes.

    `inputs` holds the elements of `rows` rows, and `sums` has one for every row and column. `first`
    is where the weights of the first lane begin, and how many elements behind it the next lane's;
    `columns` are the elements to take of each. `lanes` are those of inputs and of weights.
    """
    deep, wide = lanes
    start, across = first
    weights = local(len(columns), wide, values)
    for lane in range(deep):
        for j, column in enumerate(columns):
            put(weights, j, weight[start + lane * across + column])
        for i in range(rows):
            multiplier = element(inputs, i, lane, deep)
            for j in range(len(columns)):
                add_product(sums, i * len(columns) + j, multiplier, weights[j], wide)


def element(buffer, index, lane: int, lanes: int):
    """Take one lane of a vector element, or the scalar element itself."""
    return emit.lane(buffer[index], lane) if lanes > 1 else buffer[index]


def inside(position, size: int, low: int, high: int):
    """Return the condition for `0 <= position < size`, None if [low, high] says it always holds."""
    conditions = []
    if low < 0:
        conditions.append(position >= 0)
    if high >= size:
        conditions.append(position < size)
    return tvm.tirx.all(*conditions) if conditions else None


def clamp(position, size: int):
    """Return the nearest position inside."""
    return tvm.tirx.max(tvm.tirx.min(position, size - 1), 0)


def put_or_zero(buffer, index, value, condition, lanes: int) -> None:
    """Store a value that exists in any case, or zero where the condition fails.

    In two statements: with the read inside the choice it would become a branch of its own.
    """
    put(buffer, index, value)
    if condition is not None:
        zero = emit.splat(0.0, lanes, emit.type_of(value))
        put(buffer, index, Select(condition, buffer[index], zero))
