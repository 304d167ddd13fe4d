"""Small vocabulary in which the kernels are written: vectors, loops, activations, signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ofa_compile.compiler.tvm_api import (
    Broadcast,
    IRBuilder,
    Ramp,
    Shuffle,
    builder,
    const,
    tvm,
)


@dataclass(frozen=True)
class Fetch:
    """Data of later steps that a kernel fetches from memory on its way."""

    coming: object
    stride: object

    def line(self, number) -> None:
        """Fetch the line for inner step `number`; a step that has nothing to fetch repeats one."""
        prefetch(self.coming, number * self.stride)


def prefetch(buffer, offset) -> None:
    """Fetch a line that need not lie within the buffer."""
    address = tvm.tirx.address_of(buffer[offset])
    builder.evaluate(tvm.tirx.call_intrin("void", "tirx.prefetch", address, 0, 3, 1))


def define(
    arrays: Mapping[str, int | tuple[int, str]],
    body: Callable,
    dtype: str = "float32",
    *,
    fetches: bool = False,
) -> tvm.tirx.PrimFunc:
    """Build a PrimFunc over flat `arrays` (name -> number of `dtype` values, or number and type).

    `body` is called with one buffer per array and the variables `begin` and `end`; with `fetches`
    the PrimFunc has the parameters `coming` and `stride` too, and `body` receives a `Fetch`.
    """
    typed = [size if isinstance(size, tuple) else (size, dtype) for size in arrays.values()]
    with IRBuilder() as ir:
        with builder.prim_func():
            builder.func_name("kernel")
            pointers = [
                builder.arg(name, builder.ptr(dtype))
                for name, (_, dtype) in zip(arrays, typed, strict=True)
            ]
            begin = builder.arg("begin", builder.int32())
            end = builder.arg("end", builder.int32())
            extra = ()
            if fetches:
                pointer = builder.arg("coming", builder.ptr("float32"))
                stride = builder.arg("stride", builder.int32())
                # How much lies there is not known, and prefetches are not bound by it.
                extra = (Fetch(builder.decl_buffer((1,), "float32", data=pointer), stride),)
            buffers = [
                builder.decl_buffer((max(1, size),), dtype, data=pointer)
                for pointer, (size, dtype) in zip(pointers, typed, strict=True)
            ]
            body(*buffers, begin, end, *extra)
        return ir.get()


def tiles(begin, end):
    """Loop over the tiles of this call: `with tiles(begin, end) as t`."""
    return builder.serial(begin, end)


def serial(start, stop):
    """Run-time loop: `with serial(0, n) as i`."""
    return builder.serial(start, stop)


def varying_zero(index):
    """Zero, which the compiler must take for a function of the loop variable `index`.

    Added to an address it keeps loads in their loop. Weights that do not change from one tile to
    the next would otherwise all be loaded ahead of the loop, and spilled for want of registers.
    """
    return tvm.tirx.min(index, const(0, "int32"))


def opaque(index):
    """Return `index` in a form that the compiler does not take apart.

    Constants inside it (the padding, as a rule) would otherwise move into the offset of every
    load, make it negative, and cost a register or an instruction each.
    """
    return tvm.tirx.max(index, const(-(2**30), "int32"))


def local(size: int, dtype="float32"):
    """Accumulators: a local array that LLVM keeps in registers once all indices are constants."""
    return builder.alloc_buffer((size,), str(dtype), scope="local")


def load(buffer, offset, lanes: int):
    """Read `lanes` consecutive values."""
    return buffer[Ramp(offset, 1, lanes)] if lanes > 1 else buffer[offset]


def store(buffer, offset, value, lanes: int) -> None:
    """Write `lanes` consecutive values."""
    builder.buffer_store(buffer, value, [Ramp(offset, 1, lanes) if lanes > 1 else offset])


def splat(value, lanes: int, dtype: str = "float32"):
    """Repeat a scalar over a vector; a number becomes a constant of `dtype`."""
    if isinstance(value, int | float):
        value = const(float(value), dtype)
    return Broadcast(value, lanes) if lanes > 1 else value


def splat_int(value: int, lanes: int):
    """Repeat an int32 constant over a vector."""
    return splat(const(value, "int32"), lanes)


def type_of(value) -> str:
    """Return the type of a value, of its lanes if it is a vector."""
    return str(value.ty).partition("x")[0]


def cast(value, dtype: str, lanes: int):
    """Convert a scalar or every lane of a vector; nothing where it has the type."""
    return value.astype(f"{dtype}x{lanes}" if lanes > 1 else dtype)


def lane(vector, index: int):
    """Take one lane of a vector as a scalar."""
    return Shuffle([vector], [const(index, "int32")])


def branch(condition, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Emit `if condition: then() else: otherwise()`."""
    with builder.If(condition):
        with builder.Then():
            then()
        with builder.Else():
            otherwise()


def when(condition, then: Callable[[], None]) -> None:
    """Emit `if condition: then()`."""
    with builder.If(condition), builder.Then():
        then()


def activate(value, activation: str, lanes: int):
    """Apply an activation; h-swish and h-sigmoid as in MobileNetV3 (Howard et al. 2019, 5.2)."""
    if activation == "none":
        return value
    constants = (0.0, 1.0, 6.0, 1.0 / 6.0, 0.5)
    zero, one, six, sixth, half = (splat(c, lanes, type_of(value)) for c in constants)
    if activation == "relu":
        return tvm.tirx.max(value, zero)
    if activation == "relu6":
        return tvm.tirx.min(tvm.tirx.max(value, zero), six)
    gate = value * sixth + half
    gate = tvm.tirx.min(tvm.tirx.max(gate, zero), one)
    if activation == "hsigmoid":
        return gate
    if activation == "hswish":
        return value * gate
    msg = f"unknown activation {activation!r}"
    raise AssertionError(msg)


def split_lanes(width: int, lanes: int) -> list[tuple[int, int]]:
    """Cover `width` values by vectors: (offset, lanes) pairs, whole vectors first.

    The rest uses ever smaller powers of two, so a tail never computes or touches more than it has.
    """
    pieces = []
    offset = 0
    size = lanes
    while offset < width:
        while size > width - offset:
            size //= 2
        pieces.append((offset, size))
        offset += size
    return pieces
