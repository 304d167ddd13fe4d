"""Elementwise kernels: squeeze-excite scaling of maps or weights, sums, layout changes.

All are bound by memory; a tile is a run of values large enough to hide the loop around it.
"""

from __future__ import annotations

import math

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    Cast,
    ChangeLayout,
    ScaleChannels,
    ScaleWeights,
)
from ofa_compile.kernels import emit

# Values per tile of a flat loop: 16 KiB, a quarter of a small L1 cache for three streams.
FLAT_TILE = 4096
# Vectors of channels per loop step when a map is scaled: loop control is shared, loads pair up.
CHANNEL_VECTORS = 4
# Panel rows per tile when weights are scaled.
WEIGHT_ROWS = 64


class _Elementwise:
    """Kernels with nothing to pack and nothing to tune."""

    def configs(self, workload, machine: VectorMachine):
        """One way only."""
        return [{}]

    def pack(self, workload, config, machine, constants):
        """Nothing to pack."""
        return []


class _Flat(_Elementwise):
    """Kernels over tensors of equal size, whatever their layout."""

    num_inputs = 1

    def combine(self, workload, values, lanes: int):
        """Return what is written for one vector of each input."""
        raise AssertionError

    def types(self, workload, machine: VectorMachine) -> tuple[str, str]:
        """Return the types of what is read and written."""
        return machine.value_type, machine.value_type

    def num_tiles(self, workload, config, machine: VectorMachine) -> int:
        """One tile per `FLAT_TILE` values."""
        return math.ceil(workload.size / FLAT_TILE)

    def build(self, workload, config, machine: VectorMachine):
        """Generate one loop for whole tiles and one for the rest."""
        whole, rest = divmod(workload.size, FLAT_TILE)

        def body(*arguments):
            *inputs, y, begin, end = arguments

            def apply(start, lanes: int) -> None:
                values = [emit.load(x, start, lanes) for x in inputs]
                emit.store(y, start, self.combine(workload, values, lanes), lanes)

            def run(start, size: int) -> None:
                with emit.serial(0, size // machine.lanes) as i:
                    apply(start + i * machine.lanes, machine.lanes)
                tail = size % machine.lanes
                for offset, lanes in emit.split_lanes(tail, machine.lanes):
                    apply(start + size - tail + offset, lanes)

            with emit.tiles(begin, end) as tile:
                if not rest:
                    run(tile * FLAT_TILE, FLAT_TILE)
                elif not whole:
                    run(0, rest)
                else:
                    emit.branch(
                        tile < whole,
                        lambda: run(tile * FLAT_TILE, FLAT_TILE),
                        lambda: run(whole * FLAT_TILE, rest),
                    )

        source, result = self.types(workload, machine)
        sizes = {f"x{index}": (workload.size, source) for index in range(self.num_inputs)}
        return emit.define({**sizes, "y": (workload.size, result)}, body)


@register
class AddKernel(_Flat):
    """`y = activation(x0 + x1)`."""

    kind = Add.kind
    num_inputs = 2

    def combine(self, workload, values, lanes: int):
        """Add."""
        return emit.activate(values[0] + values[1], workload.activation, lanes)


@register
class ActivateKernel(_Flat):
    """`y = activation(x0)`."""

    kind = Activate.kind

    def combine(self, workload, values, lanes: int):
        """Apply."""
        return emit.activate(values[0], workload.activation, lanes)


@register
class CastKernel(_Flat):
    """`y = x0` in another type."""

    kind = Cast.kind

    def combine(self, workload: Cast, values, lanes: int):
        """Convert."""
        return emit.cast(values[0], workload.destination, lanes)

    def types(self, workload: Cast, machine: VectorMachine) -> tuple[str, str]:
        """Halves and floats, either way."""
        other = {"float16": "float32", "float32": "float16"}
        return other[workload.destination], workload.destination


@register
class ScaleChannelsKernel(_Elementwise):
    """`y[b, p, c] = x[b, p, c] * scale[b, c]`."""

    kind = ScaleChannels.kind

    def num_tiles(self, workload: ScaleChannels, config, machine: VectorMachine) -> int:
        """One tile per position."""
        return workload.batch * workload.positions

    def build(self, workload: ScaleChannels, config, machine: VectorMachine):
        """Generate the product."""
        w = workload
        step = CHANNEL_VECTORS * machine.lanes
        whole = w.channels // step

        def body(x, scale, y, begin, end):
            def multiply(pixel, image, channel, lanes: int) -> None:
                at = pixel * w.channels + channel
                factor = emit.load(scale, image * w.channels + channel, lanes)
                emit.store(y, at, emit.load(x, at, lanes) * factor, lanes)

            with emit.tiles(begin, end) as pixel:
                image = pixel // w.positions
                with emit.serial(0, whole) as block:
                    for index in range(CHANNEL_VECTORS):
                        channel = block * step + index * machine.lanes
                        multiply(pixel, image, channel, machine.lanes)
                done = whole * step
                for offset, lanes in emit.split_lanes(w.channels - done, machine.lanes):
                    multiply(pixel, image, done + offset, lanes)

        size = w.batch * w.positions * w.channels
        sizes = {"x": size, "scale": w.batch * w.channels, "y": size}
        return emit.define(sizes, body, machine.value_type)


@register
class ScaleWeightsKernel(_Elementwise):
    """Packed pointwise weights times one factor per input channel."""

    kind = ScaleWeights.kind

    def num_tiles(self, workload: ScaleWeights, config, machine: VectorMachine) -> int:
        """One tile per run of input channels."""
        return math.ceil(workload.in_channels / WEIGHT_ROWS)

    def pack(self, workload, config, machine, constants):
        """Weights, already packed by the pointwise kernel that reads the result."""
        return [constants["weight"]]

    def build(self, workload: ScaleWeights, config, machine: VectorMachine):
        """Generate the product, panel by panel."""
        depth = workload.in_channels
        whole, rest = divmod(depth, WEIGHT_ROWS)

        def body(scale, weight, y, begin, end):
            def run(first_row, rows: int) -> None:
                base = 0
                for width, count in _runs(workload.block_widths):
                    with emit.serial(0, count) as panel:
                        start = base + panel * (depth * width)
                        with emit.serial(0, rows) as row:
                            factor = scale[first_row + row]
                            for offset, lanes in emit.split_lanes(width, machine.lanes):
                                at = start + (first_row + row) * width + offset
                                value = emit.load(weight, at, lanes) * emit.splat(factor, lanes)
                                emit.store(y, at, value, lanes)
                    base += count * depth * width

            with emit.tiles(begin, end) as tile:
                if not rest:
                    run(tile * WEIGHT_ROWS, WEIGHT_ROWS)
                elif not whole:
                    run(0, rest)
                else:
                    emit.branch(
                        tile < whole,
                        lambda: run(tile * WEIGHT_ROWS, WEIGHT_ROWS),
                        lambda: run(whole * WEIGHT_ROWS, rest),
                    )

        size = depth * sum(workload.block_widths)
        sizes = {"scale": depth, "weight": size, "y": size}
        return emit.define(sizes, body, machine.value_type)


def _runs(widths: tuple[int, ...]) -> list[tuple[int, int]]:
    """(width, count) of consecutive equal panels."""
    runs: list[tuple[int, int]] = []
    for width in widths:
        if runs and runs[-1][0] == width:
            runs[-1] = (width, runs[-1][1] + 1)
        else:
            runs.append((width, 1))
    return runs


@register
class ChangeLayoutKernel(_Elementwise):
    """Transpose between (batch, channels, positions) and (batch, positions, channels)."""

    kind = ChangeLayout.kind

    def num_tiles(self, workload: ChangeLayout, config, machine: VectorMachine) -> int:
        """One tile per image and destination row."""
        w = workload
        return w.batch * (w.positions if w.destination == "nhwc" else w.channels)

    def build(self, workload: ChangeLayout, config, machine: VectorMachine):
        """Generate the transpose; scalar, since no shipped network has one inside."""
        w = workload
        rows, columns = w.positions, w.channels
        if w.destination == "nchw":
            rows, columns = columns, rows

        def body(x, y, begin, end):
            with emit.tiles(begin, end) as tile, emit.serial(0, columns) as column:
                image, row = tile // rows, tile % rows
                source = (image * columns + column) * rows + row
                emit.store(y, tile * columns + column, x[source], 1)

        size = w.batch * w.channels * w.positions
        return emit.define({"x": size, "y": size}, body, machine.value_type)
