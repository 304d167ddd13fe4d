"""Depthwise convolution, channels-last, any kernel size and stride.

Algorithm
    For one vector of channels and one output row, `outputs` neighbouring outputs are accumulated
    in registers. Kernel rows run in a loop whose bounds skip the padding; inside it the weights
    of a kernel row and each input column are loaded once and used by all outputs they reach.
Packing
    Weights lie as (channel block, kernel row, kernel column, lane).
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Depthwise
from ofa_compile.kernels import depthwise_rows, emit
from ofa_compile.kernels.columns import (
    ColumnTile,
    at_each_column,
    balanced_width,
    plan_columns,
    taps_inside,
)

# Beyond 14 outputs nothing is gained: the weights of a kernel row are amortised already.
MAX_OUTPUTS = 14


def _outputs_that_fit(workload: Depthwise, machine: VectorMachine) -> int:
    """Accumulators that fit beside a row of weights and one input vector."""
    spare = machine.registers - workload.kernel[1] - 1
    # With half of few registers the first and last tiles of a row, which are clipped, spill.
    return max(4, min(MAX_OUTPUTS, spare, machine.registers // 2))


@register
class DepthwiseKernel:
    """Serves every depthwise workload with one filter per channel."""

    kind = Depthwise.kind

    def configs(self, workload: Depthwise, machine: VectorMachine):
        """Tiles of an output row: the widest that fits first, then narrower ones."""
        if machine.has_lane_multiply:
            return depthwise_rows.configs(workload, machine)
        widest = _outputs_that_fit(workload, machine)
        choices = [widest, *(n for n in (14, 10, 8, 7, 4) if n < widest)]
        # Tiles are balanced over the row, so that several limits may mean the same tile.
        distinct = {balanced_width(workload.out_width, n): n for n in reversed(choices)}
        return [{"outputs": n} for n in reversed(distinct.values())]

    def num_tiles(self, workload: Depthwise, config, machine: VectorMachine) -> int:
        """One tile per (channel block, image, output row)."""
        if machine.has_lane_multiply:
            return depthwise_rows.num_tiles(workload, config, machine)
        blocks = math.ceil(workload.channels / machine.lanes)
        return blocks * workload.batch * workload.out_height

    def pack(self, workload: Depthwise, config, machine: VectorMachine, constants):
        """Weights (channels, 1, kh, kw) to (block, kh, kw, lane); bias as it is."""
        if machine.has_lane_multiply:
            return depthwise_rows.pack(workload, machine, constants)
        taps = workload.kernel[0] * workload.kernel[1]
        weight = constants["weight"].reshape(workload.channels, taps).T
        blocks = [
            weight[:, first : first + machine.lanes].ravel()
            for first in range(0, workload.channels, machine.lanes)
        ]
        bias = np.ascontiguousarray(constants["bias"], np.float32)
        return [np.ascontiguousarray(np.concatenate(blocks), np.float32), bias]

    def build(self, workload: Depthwise, config, machine: VectorMachine):
        """Generate the convolution."""
        if machine.has_lane_multiply:
            return depthwise_rows.build(workload, config, machine)
        w = workload
        taps = w.kernel[0] * w.kernel[1]
        sizes = {
            "x": w.batch * w.height * w.width * w.channels,
            "weight": taps * w.channels,
            "bias": w.channels,
            "y": w.batch * w.out_height * w.out_width * w.channels,
        }
        tiles = plan_columns(
            w.out_width, w.width, w.kernel[1], w.stride[1], w.padding[1], config["outputs"]
        )
        whole, rest = divmod(w.channels, machine.lanes)
        rows = w.batch * w.out_height

        def body(x, weight, bias, y, begin, end):
            with emit.tiles(begin, end) as tile:
                block, row = tile // rows, tile % rows

                def with_lanes(lanes: int) -> None:
                    channel = block * machine.lanes
                    for columns in tiles:
                        _emit_columns(w, columns, lanes, row, channel, (x, weight, bias, y))

                def vector_tail() -> None:
                    channel = whole * machine.lanes
                    for offset, lanes in emit.split_lanes(rest, machine.lanes):
                        for columns in tiles:
                            tensors = (x, weight, bias, y)
                            _emit_columns(w, columns, lanes, row, channel, tensors, offset, rest)

                if not rest:
                    with_lanes(machine.lanes)
                elif not whole:
                    vector_tail()
                else:
                    emit.branch(block < whole, lambda: with_lanes(machine.lanes), vector_tail)

        return emit.define(sizes, body)


def _emit_columns(
    w: Depthwise, tile: ColumnTile, lanes, row, channel, tensors, offset=0, block_lanes=None
) -> None:
    """Emit the tiles of one `ColumnTile` group: a loop where there are several."""
    block_lanes = block_lanes or lanes
    at_each_column(
        tile,
        lambda first: _emit_tile(w, tile, first, lanes, row, channel, tensors, offset, block_lanes),
    )


def _emit_tile(
    w: Depthwise, tile, first_output, lanes, row, channel, tensors, offset, block_lanes
) -> None:
    x, weight, bias, y = tensors
    taps_h, taps_w = w.kernel
    stride_h, stride_w = w.stride
    image, out_row = row // w.out_height, row % w.out_height
    accumulators = emit.local(tile.width * lanes)
    start = emit.load(bias, channel + offset, lanes)
    for output in range(tile.width):
        emit.store(accumulators, output * lanes, start, lanes)

    top = out_row * stride_h - w.padding[0]
    first_tap = tvm.tirx.max(0, -top)
    last_tap = tvm.tirx.min(taps_h, w.height - top)
    with emit.serial(first_tap, last_tap) as tap_row:
        in_row = (image * w.height + top + tap_row) * w.width
        left = in_row + first_output * stride_w - w.padding[1]
        packed = channel * (taps_h * taps_w) + tap_row * (taps_w * block_lanes) + offset
        weights = [emit.load(weight, packed + tap * block_lanes, lanes) for tap in range(taps_w)]
        users = _users_of_columns(w, tile)
        for column, uses in users.items():
            value = emit.load(x, (left + column) * w.channels + channel + offset, lanes)
            for output, tap in uses:
                total = emit.load(accumulators, output * lanes, lanes)
                emit.store(accumulators, output * lanes, total + value * weights[tap], lanes)

    out = (row * w.out_width + first_output) * w.channels + channel + offset
    for output in range(tile.width):
        value = emit.load(accumulators, output * lanes, lanes)
        emit.store(y, out + output * w.channels, emit.activate(value, w.activation, lanes), lanes)


def _users_of_columns(w: Depthwise, tile: ColumnTile) -> dict[int, list[tuple[int, int]]]:
    """Map each input column of a tile to the (output, kernel column) pairs that read it."""
    users: dict[int, list[tuple[int, int]]] = {}
    for tap in range(w.kernel[1]):
        for output in taps_inside(tile, tap, w.stride[1], w.padding[1], w.width):
            users.setdefault(output * w.stride[1] + tap, []).append((output, tap))
    return dict(sorted(users.items()))
