"""Depthwise convolution as straight code over tiles of output rows and columns (NEON).

Algorithm
    One vector of channels, `rows` x `outputs` neighbouring outputs. Windows whose clipping at the
    map's edges is the same share one body, in which every tap is known: no loop over kernel rows,
    no bounds. Small windows (3x3) pass over the columns once (`depthwise_stream`). Larger windows
    go kernel row by kernel row, all outputs in flight; where their rows are clipped, kernel rows
    are a loop with bounds instead, since the bodies are long.
Packing
    Weights lie as (channel block, kernel row, kernel column, lane).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Depthwise
from ofa_compile.kernels import depthwise_stream, emit, folded
from ofa_compile.kernels.columns import ColumnTile, at_each_column, plan_columns, users
from ofa_compile.kernels.depthwise_stream import Place

# Weights that stay in registers, beside the outputs and inputs in flight.
MAX_STAYING_TAPS = 9
# Beyond 14 outputs nothing is gained: columns read twice by neighbouring tiles are few already.
MAX_OUTPUTS = 14
# (rows, outputs a turn) where weights stay. More rows share more inputs, but LLVM spills weights
# where registers are short: with the constants of h-swish, or with the many inputs of a stride.
STREAM = (4, 6)
STREAM_HSWISH = (2, 3)
STREAM_STRIDED = (3, 2)
# Outputs per strip: enough to forget how the strip was found and its weights loaded, few enough
# for the map's rows to be in the cache when the next block reads the rest of their lines.
STRIP_OUTPUTS = 256


@dataclass(frozen=True)
class Plan:
    """How a workload is cut: `rows` are groups of row tiles, `columns` of column tiles."""

    rows: list[ColumnTile]
    columns: list[ColumnTile]
    row_tiles: int
    strip: int
    outputs: int
    is_small: bool

    @property
    def strips(self) -> int:
        """Independent pieces of a map's rows."""
        return math.ceil(self.row_tiles / self.strip)


def plan(workload: Depthwise, config, machine: VectorMachine) -> Plan:
    """Cut the map into tiles, and its rows of tiles into strips."""
    w = workload
    is_small = w.kernel[0] * w.kernel[1] <= MAX_STAYING_TAPS
    window = [(w.kernel[i], w.stride[i], w.padding[i]) for i in (0, 1)]
    rows = plan_columns(w.out_height, w.height, *window[0], config["rows"])
    columns = plan_columns(w.out_width, w.width, *window[1], config["outputs"])
    strip = math.ceil(STRIP_OUTPUTS / (w.out_width * config["rows"]))
    tiles = sum(tile.count for tile in rows)
    return Plan(rows, columns, tiles, min(strip, tiles), config["outputs"], is_small)


def configs(workload: Depthwise, machine: VectorMachine):
    """Tiles of outputs: the widest that fits first, then narrower ones."""
    if workload.kernel[0] * workload.kernel[1] <= MAX_STAYING_TAPS:
        first = STREAM_HSWISH if workload.activation == "hswish" else STREAM
        if workload.stride[1] > 1:
            first = STREAM_STRIDED
        sizes = [first, *(size for size in ((4, 3), (3, 3), (2, 3), (1, 3)) if size != first)]
    else:
        widest = max(2, min(MAX_OUTPUTS, machine.registers - workload.kernel[1] - 2))
        sizes = [(1, widest), *((1, n) for n in (10, 7, 4) if n < widest)]
    return [{"rows": rows, "outputs": outputs} for rows, outputs in sizes]


def num_tiles(workload: Depthwise, config, machine: VectorMachine) -> int:
    """One tile per (image, strip of rows, channel block)."""
    blocks = math.ceil(workload.channels / machine.lanes)
    return workload.batch * plan(workload, config, machine).strips * blocks


def pack(workload: Depthwise, machine: VectorMachine, constants):
    """Weights (channels, 1, kh, kw) to (block, kh, kw, lane); bias as it is."""
    taps = workload.kernel[0] * workload.kernel[1]
    weight = folded.fold_weight(workload, constants["weight"].reshape(workload.channels, taps).T)
    blocks = [
        weight[:, first : first + machine.lanes].ravel()
        for first in range(0, workload.channels, machine.lanes)
    ]
    bias = folded.fold_bias(workload, constants["bias"])
    return [np.ascontiguousarray(a, np.float32) for a in (np.concatenate(blocks), bias)]


def build(workload: Depthwise, config, machine: VectorMachine):
    """Generate the convolution."""
    w = workload
    cut = plan(w, config, machine)
    sizes = {
        "x": w.batch * w.height * w.width * w.channels,
        "weight": w.kernel[0] * w.kernel[1] * w.channels,
        "bias": w.channels,
        "y": w.batch * w.out_height * w.out_width * w.channels,
    }
    whole, rest = divmod(w.channels, machine.lanes)
    blocks = whole + bool(rest)

    def body(*arguments):
        *tensors, begin, end = arguments
        with emit.tiles(begin, end) as tile:
            block, strip = tile % blocks, tile // blocks
            image, first = strip // cut.strips, (strip % cut.strips) * cut.strip

            def with_lanes() -> None:
                at = Place(image, block * machine.lanes, machine.lanes, machine.lanes)
                _emit_strip(w, cut, at, first, tensors)

            def tail() -> None:
                start = whole * machine.lanes
                for offset, lanes in emit.split_lanes(rest, machine.lanes):
                    at = Place(image, start, rest, lanes, offset)
                    _emit_strip(w, cut, at, first, tensors)

            if not rest:
                with_lanes()
            elif not whole:
                tail()
            else:
                emit.branch(block < whole, with_lanes, tail)

    return emit.define(sizes, body, machine.value_type)


def _emit_strip(w: Depthwise, cut: Plan, at: Place, first, tensors) -> None:
    """Emit a strip's row tiles: a loop for each group of equal clipping."""
    stop = tvm.tirx.min(first + cut.strip, cut.row_tiles)
    start = 0
    for rows in cut.rows:
        low = tvm.tirx.max(first, start)
        high = tvm.tirx.min(stop, start + rows.count)
        with emit.serial(low, high) as number:
            top = rows.first_output
            if rows.count > 1:
                top = top + (number - start) * rows.width
            if cut.is_small:
                depthwise_stream.emit_rows(w, cut.outputs, at, rows, top, tensors)
            elif not rows.is_clipped:
                _emit_columns(w, cut, at, rows, top, number, tensors)
            else:
                for row in range(rows.width):
                    single = ColumnTile(rows.first_output + row, 1, 1, True)
                    _emit_columns(w, cut, at, single, top + row, number, tensors)
        start += rows.count


def _emit_columns(w, cut: Plan, at: Place, rows, row, number, tensors) -> None:
    for tile in cut.columns:
        at_each_column(
            tile,
            lambda column, tile=tile: _emit_tile(
                w, cut, at, rows, tile, row, column, number, tensors
            ),
        )


def _emit_tile(w, cut: Plan, at: Place, rows, columns, row, column, number, tensors) -> None:
    x, weight, bias, y = tensors
    lanes, channel = at.lanes, at.channel
    outputs = [(i, j) for j in range(columns.width) for i in range(rows.width)]
    sums = emit.local(len(outputs) * lanes, y.dtype)
    slot = {output: n * lanes for n, output in enumerate(outputs)}
    start = emit.load(bias, channel, lanes)
    for output in outputs:
        emit.store(sums, slot[output], start, lanes)

    taps_h, taps_w = w.kernel
    top = row * w.stride[0] - w.padding[0]
    left = column * w.stride[1] - w.padding[1]
    pixel = (at.image * w.height + top) * w.width + left
    corner = emit.opaque(pixel * w.channels + channel)
    packed = at.block_start * (taps_h * taps_w) + at.offset + emit.varying_zero(number)

    def add(in_row, in_column: int, uses) -> None:
        """Add one input to its (output, kernel row, kernel column) uses."""
        value = emit.load(x, corner + (in_row * w.width + in_column) * w.channels, lanes)
        for output, tap_row, tap in uses:
            factor = emit.load(weight, packed + (tap_row * taps_w + tap) * at.block_width, lanes)
            total = emit.load(sums, slot[output], lanes) + value * factor
            emit.store(sums, slot[output], total, lanes)

    by_column = users(columns, w.kernel[1], w.stride[1], w.padding[1], w.width)
    if rows.is_clipped:
        bounds = (tvm.tirx.max(0, -top), tvm.tirx.min(taps_h, w.height - top))
        with emit.serial(*bounds) as tap_row:
            for in_column, reached in by_column.items():
                add(tap_row, in_column, [((0, j), tap_row, tap) for j, tap in reached])
    else:
        by_row = users(rows, w.kernel[0], w.stride[0], w.padding[0], w.height)
        for r, c in [(r, c) for r in by_row for c in by_column]:
            add(r, c, [((i, j), v, h) for j, h in by_column[c] for i, v in by_row[r]])

    for i, j in outputs:
        value = emit.load(sums, slot[i, j], lanes)
        out = (at.image * w.out_height + row + i) * w.out_width + column + j
        emit.store(y, out * w.channels + channel, folded.finish(w, value, lanes), lanes)
