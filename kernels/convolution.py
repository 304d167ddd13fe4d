"""Dense convolution: the stem (reading the image as it comes, channels-first) and 3x3 layers.

Algorithm
    As the pointwise kernel, with the rows being `outputs` neighbouring outputs of one output row,
    and a loop over kernel rows, kernel columns and input channels around the multiply-adds.
    Kernel rows outside the map are skipped by loop bounds, columns at compile time.
Packing
    Weights lie as (output block, kernel row, kernel column, input channel, lane).
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Convolution
from ofa_compile.kernels import emit, folded, stem_lanes
from ofa_compile.kernels.columns import ColumnTile, at_each_column, plan_columns, taps_inside

# Unrolling pays while a kernel row is a few dozen steps; beyond, input channels become a loop.
MAX_UNROLLED_CHANNELS = 4


def _blocks(workload: Convolution, config, machine: VectorMachine) -> list[tuple[int, int, int]]:
    """(first channel, number of blocks, width) groups of output channels."""
    width = min(config["vectors"] * machine.lanes, workload.out_channels)
    count, rest = divmod(workload.out_channels, width)
    groups = [(0, count, width)]
    if rest:
        groups.append((count * width, 1, rest))
    return groups


def _outputs_that_fit(vectors: int, machine: VectorMachine) -> int:
    """Accumulators that fit beside one weight vector each and the broadcast input."""
    return max(1, (machine.registers - vectors - 1) // vectors)


@register
class ConvolutionKernel:
    """Serves every ungrouped convolution that is not pointwise."""

    kind = Convolution.kind

    def configs(self, workload: Convolution, machine: VectorMachine):
        """Register tiles that fit, the one with most multiply-adds per load first.

        Ties, and tiles of more than eight outputs, lose to eight outputs: measured on the stem,
        wider tiles have too many rows of addresses in flight.
        """
        if stem_lanes.applies(workload, machine):
            return stem_lanes.configs(workload, machine)
        most = max(1, math.ceil(workload.out_channels / machine.lanes))
        choices = [
            {"vectors": vectors, "outputs": outputs}
            for vectors in range(1, min(4, most) + 1)
            for outputs in (4, 5, 7, 8, 14)
            if outputs <= _outputs_that_fit(vectors, machine)
        ]

        def cost(config) -> tuple[float, int]:
            vectors, outputs = config["vectors"], config["outputs"]
            blocks = math.ceil(workload.out_channels / (vectors * machine.lanes))
            slots = max(vectors * outputs, vectors + outputs) + 0.1 * (vectors + outputs)
            tiles = math.ceil(workload.out_width / outputs)
            return blocks * tiles * slots * (1.2 if outputs > 8 else 1.0), -outputs

        return sorted(choices, key=cost)

    def num_tiles(self, workload: Convolution, config, machine: VectorMachine) -> int:
        """One tile per (block, image, output row)."""
        blocks = sum(count for _, count, _ in _blocks(workload, config, machine))
        return blocks * workload.batch * workload.out_height

    def pack(self, workload: Convolution, config, machine: VectorMachine, constants):
        """Weights (out, in, kh, kw) to (block, kh, kw, in, lane); bias as it is."""
        weight, bias = constants["weight"], constants["bias"]
        if stem_lanes.applies(workload, machine):
            weight = folded.fold_weight(workload, weight)
            bias = folded.fold_bias(workload, bias)
        weight = np.transpose(weight, (2, 3, 1, 0))
        panels = []
        for first, count, width in _blocks(workload, config, machine):
            for index in range(count):
                start = first + index * width
                panels.append(weight[..., start : start + width].ravel())
        return [np.ascontiguousarray(a, np.float32) for a in (np.concatenate(panels), bias)]

    def build(self, workload: Convolution, config, machine: VectorMachine):
        """Generate the convolution."""
        w = workload
        outputs = w.batch * w.out_height * w.out_width * w.out_channels
        sizes = {"x": w.batch * w.height * w.width * w.in_channels}
        if w.has_residual:
            sizes["residual"] = outputs
        sizes["weight"] = w.kernel[0] * w.kernel[1] * w.in_channels * w.out_channels
        sizes["bias"] = w.out_channels
        sizes["y"] = outputs
        groups = _blocks(w, config, machine)
        rows = w.batch * w.out_height

        def body(*arguments):
            *buffers, begin, end = arguments
            x, *residual, weight, bias, y = buffers
            tensors = (x, residual[0] if residual else None, weight, bias, y)
            with emit.tiles(begin, end) as tile:
                block, row = tile // rows, tile % rows

                def with_group(group) -> None:
                    first, _, width = group
                    channel = first if first else block * width
                    if stem_lanes.applies(w, machine):
                        stem_lanes.emit_row(w, config, machine, width, row, channel, tensors)
                    else:
                        _emit_row(w, config, machine, width, row, channel, tensors)

                if len(groups) == 1:
                    with_group(groups[0])
                else:
                    emit.branch(
                        block < groups[0][1],
                        lambda: with_group(groups[0]),
                        lambda: with_group(groups[1]),
                    )

        return emit.define(sizes, body, machine.value_type)


def _emit_row(w: Convolution, config, machine, width: int, row, channel, tensors) -> None:
    pieces = emit.split_lanes(width, machine.lanes)
    outputs = min(config["outputs"], _outputs_that_fit(len(pieces), machine))
    for tile in plan_columns(w.out_width, w.width, w.kernel[1], w.stride[1], w.padding[1], outputs):
        at_each_column(
            tile,
            lambda first, tile=tile: _emit_tile(
                w, tile, first, pieces, width, row, channel, tensors
            ),
        )


def _emit_tile(
    w: Convolution, tile: ColumnTile, first_output, pieces, width, row, channel, tensors
) -> None:
    x, residual, weight, bias, y = tensors
    image, out_row = row // w.out_height, row % w.out_height
    accumulators = emit.local(tile.width * width, y.dtype)
    out = (row * w.out_width + first_output) * w.out_channels + channel
    for output in range(tile.width):
        for offset, lanes in pieces:
            start = emit.load(bias, channel + offset, lanes)
            if residual is not None:
                at = out + output * w.out_channels + offset
                start = start + emit.load(residual, at, lanes)
            emit.store(accumulators, output * width + offset, start, lanes)

    def accumulate(tap: int, in_channel, packed, position) -> None:
        inside = taps_inside(tile, tap, w.stride[1], w.padding[1], w.width)
        weights = [emit.load(weight, packed + offset, lanes) for offset, lanes in pieces]
        for output in inside:
            # One broadcast input is alive at a time, the weights of all pieces stay.
            value = x[position(in_channel, output * w.stride[1] + tap)]
            for (offset, lanes), factor in zip(pieces, weights, strict=True):
                at = output * width + offset
                total = emit.load(accumulators, at, lanes)
                emit.store(accumulators, at, total + emit.splat(value, lanes) * factor, lanes)

    top = out_row * w.stride[0] - w.padding[0]
    taps_h, taps_w = w.kernel
    panel = channel * (taps_h * taps_w * w.in_channels)
    with emit.serial(tvm.tirx.max(0, -top), tvm.tirx.min(taps_h, w.height - top)) as tap_row:
        left = first_output * w.stride[1] - w.padding[1]
        in_row = top + tap_row

        def position(in_channel, column):
            if w.input_layout == "nchw":
                plane = image * w.in_channels + in_channel
                return (plane * w.height + in_row) * w.width + left + column
            pixel = (image * w.height + in_row) * w.width + left + column
            return pixel * w.in_channels + in_channel

        for tap in range(taps_w):
            base = panel + (tap_row * taps_w + tap) * (w.in_channels * width)
            if w.in_channels <= MAX_UNROLLED_CHANNELS:
                for in_channel in range(w.in_channels):
                    accumulate(tap, in_channel, base + in_channel * width, position)
            else:
                with emit.serial(0, w.in_channels) as in_channel:
                    accumulate(tap, in_channel, base + in_channel * width, position)

    for output in range(tile.width):
        for offset, lanes in pieces:
            value = emit.load(accumulators, output * width + offset, lanes)
            value = emit.activate(value, w.activation, lanes)
            emit.store(y, out + output * w.out_channels + offset, value, lanes)
