"""Kernels between layers on bytes: conversions, global pooling, squeeze-excite scaling."""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.workload import Dequantise, GlobalPoolInt8, Quantise, ScaleChannelsInt8
from ofa_compile.kernels import emit, int8_emit

# Vectors of channels in flight: their chains of additions hide each other's latency.
VECTORS = 4


class _PerChannel:
    """Kernels whose numbers are one float per channel and kind, and which nothing can tune."""

    def configs(self, workload, machine: VectorMachine):
        """One way only."""
        can = machine.byte_products != "none" and workload.channels % int8_emit.GROUP == 0
        return [{}] if can else []


def _vectors(numbers, channels: int, channel, lanes: int):
    """Load one vector of each kind of number."""
    kinds = int(numbers.shape[0]) // channels
    return [emit.load(numbers, kind * channels + channel, lanes) for kind in range(kinds)]


def _over_channels(channels: int, machine: VectorMachine, body) -> None:
    """Emit `body(channel, lanes)` for all channels: a loop and what it leaves."""
    whole = channels // machine.lanes
    with emit.serial(0, whole) as block:
        body(block * machine.lanes, machine.lanes)
    for offset, lanes in emit.split_lanes(channels - whole * machine.lanes, machine.lanes):
        body(whole * machine.lanes + offset, lanes)


class _Conversion(_PerChannel):
    """One position after the other, each with all its channels."""

    def num_tiles(self, workload, config, machine: VectorMachine) -> int:
        """One tile per position."""
        return workload.positions

    def build(self, workload, config, machine: VectorMachine):
        """Generate the loop over channels."""
        channels = workload.channels
        size = workload.positions * channels
        types = [self.source(machine), self.result(machine)]

        def body(x, numbers, y, begin, end):
            with emit.tiles(begin, end) as position:

                def convert(channel, lanes: int) -> None:
                    at = position * channels + channel
                    vectors = _vectors(numbers, channels, channel, lanes)
                    value = self.convert(emit.load(x, at, lanes), *vectors, lanes, machine)
                    emit.store(y, at, value, lanes)

                _over_channels(channels, machine, convert)

        sizes = {"x": (size, types[0]), "numbers": 2 * channels, "y": (size, types[1])}
        return emit.define(sizes, body)


@register
class QuantiseKernel(_Conversion):
    """`y = round(x / scale + zero)`."""

    kind = Quantise.kind

    def source(self, machine) -> str:
        """Floats."""
        return "float32"

    def result(self, machine) -> str:
        """Bytes."""
        return machine.byte_type

    def pack(self, workload, config, machine, constants):
        """Reciprocal scales and zero points."""
        quantisation = constants["output"]
        zero = quantisation.zero_point - int8_emit.shift_of(machine)
        return [np.stack([1.0 / quantisation.scale, zero]).astype(np.float32)]

    def convert(self, value, factor, zero, lanes: int, machine):
        """Scale, move, round."""
        return int8_emit.to_bytes(int8_emit.fused(value, factor, zero, lanes), lanes, machine)


@register
class DequantiseKernel(_Conversion):
    """`y = (x - zero) * scale`."""

    kind = Dequantise.kind

    def source(self, machine) -> str:
        """Bytes."""
        return machine.byte_type

    def result(self, machine) -> str:
        """Floats."""
        return "float32"

    def pack(self, workload, config, machine, constants):
        """Zero points and scales."""
        quantisation = constants["input"]
        zero = quantisation.zero_point - int8_emit.shift_of(machine)
        return [np.stack([zero, quantisation.scale]).astype(np.float32)]

    def convert(self, value, zero, scale, lanes: int, machine):
        """Move and scale: exact but for one rounding."""
        return (int8_emit.to_float(value, lanes) - zero) * scale


@register
class ScaleChannelsInt8Kernel(_PerChannel):
    """`y[b, p, c] = round((x[b, p, c] - x zero) * gate[b, c] * x scale / y scale + y zero)`."""

    kind = ScaleChannelsInt8.kind

    def num_tiles(self, workload: ScaleChannelsInt8, config, machine: VectorMachine) -> int:
        """One tile per image and block of channels."""
        return workload.batch * math.ceil(workload.channels / (VECTORS * machine.lanes))

    def pack(self, workload, config, machine, constants):
        """Ratio of the scales, and both zero points."""
        source, result = constants["input"], constants["output"]
        shift = int8_emit.shift_of(machine)
        numbers = [
            source.scale / result.scale,
            shift - source.zero_point,
            result.zero_point - shift,
        ]
        return [np.stack(numbers).astype(np.float32)]

    def build(self, workload: ScaleChannelsInt8, config, machine: VectorMachine):
        """Generate the product."""
        w = workload

        def body(x, gate, numbers, y, begin, end):
            def multiply(image, channel, pieces) -> None:
                factors = []
                for offset, lanes in pieces:
                    ratio, minus, zero = _vectors(numbers, w.channels, channel + offset, lanes)
                    factor = emit.load(gate, image * w.channels + channel + offset, lanes) * ratio
                    factors.append((factor, int8_emit.fused(minus, factor, zero, lanes)))
                with emit.serial(0, w.positions) as position:
                    start = (image * w.positions + position) * w.channels + channel
                    for (offset, lanes), (factor, move) in zip(pieces, factors, strict=True):
                        value = int8_emit.to_float(emit.load(x, start + offset, lanes), lanes)
                        value = int8_emit.fused(value, factor, move, lanes)
                        data = int8_emit.to_bytes(value, lanes, machine)
                        emit.store(y, start + offset, data, lanes)

            _over_blocks(w, machine, begin, end, multiply)

        size = (w.batch * w.positions * w.channels, machine.byte_type)
        gates, numbers = w.batch * w.channels, 3 * w.channels
        return emit.define({"x": size, "gate": gates, "numbers": numbers, "y": size}, body)


@register
class GlobalPoolInt8Kernel(_PerChannel):
    """`y[b, c] = (sum over p of x[b, p, c]) * scale / positions - zero * scale`."""

    kind = GlobalPoolInt8.kind

    def num_tiles(self, workload: GlobalPoolInt8, config, machine: VectorMachine) -> int:
        """One tile per image and block of channels."""
        return workload.batch * math.ceil(workload.channels / (VECTORS * machine.lanes))

    def pack(self, workload: GlobalPoolInt8, config, machine, constants):
        """Scales over positions, and what is subtracted."""
        source = constants["input"]
        zero = source.zero_point - int8_emit.shift_of(machine)
        numbers = [source.scale / workload.positions, -source.scale * zero]
        return [np.stack(numbers).astype(np.float32)]

    def build(self, workload: GlobalPoolInt8, config, machine: VectorMachine):
        """Generate the sums."""
        w = workload

        def body(x, numbers, y, begin, end):
            def mean(image, channel, pieces) -> None:
                sums = emit.local(VECTORS * machine.lanes, "int32")
                for offset, lanes in pieces:
                    emit.store(sums, offset, emit.splat_int(0, lanes), lanes)
                with emit.serial(0, w.positions) as position:
                    start = (image * w.positions + position) * w.channels + channel
                    for offset, lanes in pieces:
                        value = emit.load(x, start + offset, lanes)
                        value = value.astype(int8_emit.typed("int32", lanes))
                        total = emit.load(sums, offset, lanes) + value
                        emit.store(sums, offset, total, lanes)
                for offset, lanes in pieces:
                    scale, move = _vectors(numbers, w.channels, channel + offset, lanes)
                    total = int8_emit.to_float(emit.load(sums, offset, lanes), lanes)
                    value = int8_emit.fused(total, scale, move, lanes)
                    emit.store(y, image * w.channels + channel + offset, value, lanes)

            _over_blocks(w, machine, begin, end, mean)

        size = (w.batch * w.positions * w.channels, machine.byte_type)
        numbers, means = 2 * w.channels, w.batch * w.channels
        return emit.define({"x": size, "numbers": numbers, "y": means}, body)


def _over_blocks(w, machine: VectorMachine, begin, end, body) -> None:
    """Emit `body(image, first channel, pieces)` for the tiles of this call."""
    width = VECTORS * machine.lanes
    blocks, rest = math.ceil(w.channels / width), w.channels % width
    with emit.tiles(begin, end) as tile:
        image, block = tile // blocks, tile % blocks

        def with_width(size: int) -> None:
            body(image, block * width, emit.split_lanes(size, machine.lanes))

        if not rest:
            with_width(width)
        elif blocks == 1:
            with_width(rest)
        else:
            emit.branch(block < blocks - 1, lambda: with_width(width), lambda: with_width(rest))
