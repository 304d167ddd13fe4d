"""Vocabulary of the kernels for bytes: products of four bytes, interleaving, epilogues."""

from __future__ import annotations

from ofa_compile.compiler.int8.epilogue import section_names
from ofa_compile.compiler.int8.scheme import SIGNED_SHIFT
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.tvm_api import Broadcast, Shuffle, const, tvm
from ofa_compile.kernels import emit

GROUP = 4
"""Bytes whose products one instruction adds into one int32."""

_VNNI = {16: "512", 8: "256", 4: "128"}
_PMADD = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}


def shift_of(machine: VectorMachine) -> int:
    """Return what is subtracted from a byte's value where it is stored as int8."""
    return 0 if machine.byte_type == "uint8" else SIGNED_SHIFT


def typed(dtype: str, lanes: int) -> str:
    """Return the name of a vector type."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def call(dtype: str, name: str, *arguments):
    """Call an LLVM intrinsic without side effects."""
    return tvm.tirx.call_llvm_pure_intrin(dtype, f"llvm.{name}", *arguments)


def as_bytes(vector, dtype: str, lanes: int):
    """Take `lanes` int32 values for four times as many bytes."""
    return tvm.tirx.reinterpret(typed(dtype, GROUP * lanes), vector)


def as_words(vector, lanes: int):
    """Take bytes for `lanes` int32 values."""
    return tvm.tirx.reinterpret(typed("int32", lanes), vector)


def add_products(total, x, weight, lanes: int, machine: VectorMachine):
    """Add to each int32 lane the four products of the bytes of `x` and `weight` in that lane."""
    if machine.byte_products == "pmadd":
        return total + _sum_of_int16(x, weight, lanes)
    x = as_bytes(x, machine.byte_type, lanes)
    weight = as_bytes(weight, "int8", lanes)
    if machine.byte_products == "vnni":
        return call(typed("int32", lanes), f"x86.avx512.vpdpbusd.{_VNNI[lanes]}", total, x, weight)
    if machine.byte_products == "sdot":
        return call(typed("int32", lanes), "aarch64.neon.sdot", total, x, weight)
    return total + _sum_in_halves(x, weight)


def _sum_of_int16(x, weight, lanes: int):
    """Sum products of uint8 and int8 in fours: bytes 0 and 2 of each word, then 1 and 3."""
    words, eight = typed("int16", 2 * lanes), const(8, "int16")
    shift = Broadcast(eight, 2 * lanes)
    unsigned = tvm.tirx.reinterpret(typed("uint16", 2 * lanes), x)
    low = unsigned & Broadcast(const(255, "uint16"), 2 * lanes)
    high = unsigned >> Broadcast(const(8, "uint16"), 2 * lanes)
    signed = tvm.tirx.reinterpret(words, weight)
    pairs = ((low, (signed << shift) >> shift), (high, signed >> shift))
    name = f"x86.{_PMADD[lanes]}"
    sums = [call(typed("int32", lanes), name, tvm.tirx.reinterpret(words, a), b) for a, b in pairs]
    return sums[0] + sums[1]


def _sum_in_halves(x, weight):
    """Sum products in fours without dot products: two fit an int16, since no weight is -128."""
    products = []
    for first in (0, 8):
        half = [const(first + i, "int32") for i in range(8)]
        sides = [Shuffle([side], half) for side in (x, weight)]
        products.append(call("int16x8", "aarch64.neon.smull", *sides))
    pairs = call("int16x8", "aarch64.neon.addp", *products)
    return call("int32x4", "aarch64.neon.saddlp", pairs)


def to_float(vector, lanes: int):
    """Turn integers into float32."""
    return vector.astype(typed("int32", lanes)).astype(typed("float32", lanes))


def fused(a, b, c, lanes: int):
    """Multiply and add with one rounding."""
    return call(typed("float32", lanes), "fma", a, b, c)


def to_bytes(value, lanes: int, machine: VectorMachine):
    """Round to the nearest integer, ties to even, and clip to a byte."""
    integer = typed("int32", lanes)
    if machine.byte_type == "uint8":
        rounded = call(integer, "lrint", value)
    else:
        rounded = call(integer, "aarch64.neon.fcvtns", value)
    low, high = (0, 255) if machine.byte_type == "uint8" else (-128, 127)
    low, high = (Broadcast(const(limit, "int32"), lanes) for limit in (low, high))
    clipped = tvm.tirx.min(tvm.tirx.max(rounded, low), high)
    return clipped.astype(typed(machine.byte_type, lanes))


def epilogue_size(workload, channels: int) -> int:
    """Return how many numbers the epilogue of a layer has."""
    has_residual = getattr(workload, "has_residual", False)
    return channels * len(section_names(workload.activation, has_residual=has_residual))


class Epilogue:
    """What follows the sums of one vector of channels: see `compiler.int8.epilogue`."""

    def __init__(self, data, channels: int, workload, channel, lanes: int) -> None:
        self.lanes, self.activation = lanes, workload.activation
        has_residual = getattr(workload, "has_residual", False)
        names = section_names(workload.activation, has_residual=has_residual)
        self.parts = {
            name: emit.load(data, number * channels + channel, lanes)
            for number, name in enumerate(names)
        }

    def apply(self, total, residual=None):
        """Return the result in steps of the output, not yet rounded."""
        lanes, part = self.lanes, self.parts
        steps = fused(to_float(total, lanes), part["scale"], part["offset"], lanes)
        if residual is not None:
            steps = fused(to_float(residual, lanes), part["residual"], steps, lanes)
        if self.activation == "none":
            return steps
        if self.activation in ("relu", "relu6"):
            steps = tvm.tirx.max(steps, part["zero"])
            return tvm.tirx.min(steps, part["top"]) if self.activation == "relu6" else steps
        half, zero, one = (emit.splat(number, lanes) for number in (0.5, 0.0, 1.0))
        gate = fused(steps, part["gate"], half, lanes)
        gate = tvm.tirx.min(tvm.tirx.max(gate, zero), one)
        factor = steps if self.activation == "hswish" else part["top"]
        return fused(gate, factor, part["zero"], lanes)


def interleave(rows, lanes: int, machine: VectorMachine):
    """Turn four vectors of 4 x lanes bytes into four of int32: byte i of each row side by side.

    Vector v holds the channels from v * lanes on, in order. The unpacking instructions work in
    pieces of 16 bytes; so that the order comes out right, words of four bytes are dealt out to
    the pieces first, where there are several.
    """
    pieces = lanes // 4
    if pieces > 1:
        deal = [word * pieces + piece for piece in range(pieces) for word in range(4)]
        order = [const(i, "int32") for i in deal]
        rows = [
            as_bytes(Shuffle([as_words(row, lanes)], order), machine.byte_type, lanes)
            for row in rows
        ]
    low, high = _unpack(rows[0], rows[1], 1, pieces)
    low2, high2 = _unpack(rows[2], rows[3], 1, pieces)
    mixed = (*_unpack(low, low2, 2, pieces), *_unpack(high, high2, 2, pieces))
    return [as_words(vector, lanes) for vector in mixed]


def _unpack(a, b, size: int, pieces: int):
    """Alternate elements of `size` bytes of the low, and of the high halves of 16-byte pieces."""
    width = 16 * pieces
    halves = []
    for half in (0, 8):
        order = []
        for piece in range(pieces):
            for element in range(0, 8, size):
                at = 16 * piece + half + element
                order += [*range(at, at + size), *range(width + at, width + at + size)]
        halves.append(Shuffle([a, b], [const(i, "int32") for i in order]))
    return halves
