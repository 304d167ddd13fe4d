"""The stem convolution where a multiply-add takes one lane of a vector as its scalar (NEON).

Algorithm
    As `convolution`, but the image is channels-first, so neighbouring columns of an input row lie
    next to each other: the columns that a tile of outputs reads are loaded as vectors, once per
    kernel row and channel, and their lanes multiply the weights. The last vector overlaps the one
    before where the columns are no multiple of four: nothing outside the row is touched.
Packing
    As `convolution`, with the activation's constants folded in (`folded`).
"""

from __future__ import annotations

import math

from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Convolution
from ofa_compile.kernels import emit, folded
from ofa_compile.kernels.columns import ColumnTile, at_each_column, plan_columns, taps_inside

MAX_CHANNELS = 4
# A pair of weights, and registers for loads that LLVM moves ahead.
OTHER_REGISTERS = 6


def applies(workload: Convolution, machine: VectorMachine) -> bool:
    """Say whether this is a stem, on a core with lane multiplies."""
    w = workload
    is_stem = w.input_layout == "nchw" and w.in_channels <= MAX_CHANNELS and not w.has_residual
    return machine.has_lane_multiply and machine.lanes >= 4 and is_stem


def configs(workload: Convolution, machine: VectorMachine):
    """Register tiles, the one with most multiply-adds per load first."""
    w = workload
    most = min(4, math.ceil(w.out_channels / machine.lanes))
    choices = []
    for vectors in range(most, 0, -1):
        outputs = 1
        while (
            (outputs + 1) * vectors + _columns(w, outputs + 1) // machine.lanes + OTHER_REGISTERS
        ) <= machine.registers:
            outputs += 1
        choices.append({"vectors": vectors, "outputs": min(outputs, 14)})
    return choices


def _columns(w: Convolution, outputs: int) -> int:
    """Input columns that so many outputs read."""
    return (outputs - 1) * w.stride[1] + w.kernel[1]


def emit_row(w: Convolution, config, machine, width: int, row, channel, tensors) -> None:
    """Emit one output row of one block of output channels."""
    pieces = emit.split_lanes(width, machine.lanes)
    window = (w.kernel[1], w.stride[1], w.padding[1])
    for tile in plan_columns(w.out_width, w.width, *window, config["outputs"]):
        at_each_column(
            tile,
            lambda first, tile=tile: _emit_tile(
                w, machine, tile, first, pieces, width, row, channel, tensors
            ),
        )


def _emit_tile(
    w: Convolution, machine, tile: ColumnTile, first_output, pieces, width, row, channel, tensors
) -> None:
    x, _, weight, bias, y = tensors
    image, out_row = row // w.out_height, row % w.out_height
    sums = emit.local(tile.width * width, y.dtype)
    for output in range(tile.width):
        for offset, lanes in pieces:
            start = emit.load(bias, channel + offset, lanes)
            emit.store(sums, output * width + offset, start, lanes)

    taps_h, taps_w = w.kernel
    top = out_row * w.stride[0] - w.padding[0]
    left = first_output * w.stride[1] - w.padding[1]
    reached = _outputs_of_taps(w, tile)
    used = [o * w.stride[1] + tap for tap, outputs in reached.items() for o in outputs]
    bounds = (tvm.tirx.max(0, -top), tvm.tirx.min(taps_h, w.height - top))
    with emit.serial(*bounds) as tap_row:
        for in_channel in range(w.in_channels if used else 0):
            plane = image * w.in_channels + in_channel
            start = (plane * w.height + top + tap_row) * w.width + left
            inputs = _load_columns(x, start, min(used), max(used), machine.lanes)
            panel = channel * (taps_h * taps_w * w.in_channels)
            for tap, outputs in reached.items():
                at = panel + ((tap_row * taps_w + tap) * w.in_channels + in_channel) * width
                for offset, lanes in pieces:
                    factor = emit.load(weight, at + offset, lanes)
                    for output in outputs:
                        value = emit.splat(inputs[output * w.stride[1] + tap], lanes)
                        slot = output * width + offset
                        total = emit.load(sums, slot, lanes) + value * factor
                        emit.store(sums, slot, total, lanes)

    out = (row * w.out_width + first_output) * w.out_channels + channel
    for output in range(tile.width):
        for offset, lanes in pieces:
            value = emit.load(sums, output * width + offset, lanes)
            at = out + output * w.out_channels + offset
            emit.store(y, at, folded.finish(w, value, lanes), lanes)


def _outputs_of_taps(w: Convolution, tile: ColumnTile) -> dict[int, list[int]]:
    """Map each kernel column to the outputs for which it lies inside the map."""
    window = (w.stride[1], w.padding[1], w.width)
    return {tap: taps_inside(tile, tap, *window) for tap in range(w.kernel[1])}


def _load_columns(x, start, first: int, last: int, lanes: int) -> dict[int, object]:
    """Read columns `first` to `last` of a row by vectors; return column -> scalar."""
    scalars: dict[int, object] = {}
    count = last - first + 1
    size = min(lanes, 1 << (count.bit_length() - 1))
    for column in [*range(first, last + 2 - size, size), last + 1 - size]:
        if column + size - 1 in scalars:
            continue
        vector = emit.load(x, start + column, size)
        for k in range(size):
            lane = emit.lane(vector, k) if size > 1 else vector
            scalars.setdefault(column + k, lane)
    return scalars
