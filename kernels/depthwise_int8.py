"""Depthwise convolution on bytes, channels-last, any kernel size and stride.

Algorithm
    One instruction adds four products per channel: those of four kernel rows. A tile is a group of
    channels and a strip of output rows. First the input rows that the strip needs are interleaved
    in fours into a scratch buffer, part of a row at a time, padding included; then every output
    is a sum over its kernel columns, `outputs` neighbours at once in registers. Rows of one
    interleaved group serve several output rows, each with its weights moved down by as much.
Packing
    Weights lie as (channel group, vector, output row of the strip, row group, kernel column, lane,
    row in the group), zero for rows outside the kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ofa_compile.compiler.int8.epilogue import make_epilogue
from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.tvm_api import Select, const, tvm
from ofa_compile.compiler.workload import DepthwiseInt8
from ofa_compile.kernels import emit, int8_emit
from ofa_compile.kernels.columns import balanced_width
from ofa_compile.kernels.int8_emit import GROUP

# Vectors that hold one interleaved group of rows: four, of a quarter of the channels each.
VECTORS = 4
# Beyond 14 outputs nothing is gained: the weights of a kernel row are amortised already.
MAX_OUTPUTS = 14
# Interleaved rows stay in the L1 cache beside the weights.
SCRATCH_BYTES = 20 * 1024
# Fewest channels that one vector register of each interleaved row holds.
_MIN_WIDTH = 16


@dataclass(frozen=True)
class Plan:
    """How a workload is cut.

    Attributes
    ----------
    groups
        (first channel, channels) of each channel group; the last may repeat channels of the one
        before, so that no vector is partly filled.
    row_groups
        Interleaved groups of four input rows.
    rows
        Output rows of a strip.
    outputs, tiles
        Outputs in registers at once, and how many such runs one filling of the scratch serves.
    chunks
        Fillings per strip.
    """

    groups: list[tuple[int, int]]
    row_groups: int
    rows: int
    outputs: int
    tiles: int
    chunks: int


def plan(w: DepthwiseInt8, config, machine: VectorMachine) -> Plan:
    """Cut channels into groups, output rows into strips, and these into what the scratch holds."""
    row_groups = math.ceil(w.kernel[0] / GROUP)
    rows = min((GROUP * row_groups - w.kernel[0]) // w.stride[0] + 1, w.out_height)
    outputs = balanced_width(w.out_width, config["outputs"])
    all_tiles = math.ceil(w.out_width / outputs)
    column_bytes = row_groups * GROUP * GROUP * machine.lanes
    fit = (SCRATCH_BYTES // column_bytes - w.kernel[1]) // (outputs * w.stride[1])
    tiles = balanced_width(all_tiles, max(1, fit))
    chunks = math.ceil(all_tiles / tiles)
    return Plan(channel_groups(w.channels, machine), row_groups, rows, outputs, tiles, chunks)


def channel_groups(channels: int, machine: VectorMachine) -> list[tuple[int, int]]:
    """Cover the channels by groups as wide as four vectors, then by narrower ones."""
    width = GROUP * machine.lanes
    groups = [(first, width) for first in range(0, channels - width + 1, width)]
    done = len(groups) * width
    while done < channels:
        while width > max(_MIN_WIDTH, channels - done):
            width //= 2
        groups.append((min(done, channels - width), width))
        done += width
    return groups


@register
class DepthwiseInt8Kernel:
    """Serves depthwise workloads of at least sixteen channels, where such products exist."""

    kind = DepthwiseInt8.kind

    def configs(self, workload: DepthwiseInt8, machine: VectorMachine):
        """Tiles of an output row: the widest that fits first, then narrower ones."""
        if machine.byte_products == "none" or workload.channels < _MIN_WIDTH:
            return []
        widest = min(MAX_OUTPUTS, machine.registers - workload.kernel[1] - 4)
        choices = [widest, *(n for n in (14, 10, 8, 7, 4) if n < widest)]
        distinct = {balanced_width(workload.out_width, n): n for n in reversed(choices)}
        return [{"outputs": n} for n in reversed(distinct.values())]

    def num_tiles(self, workload: DepthwiseInt8, config, machine: VectorMachine) -> int:
        """One tile per (channel group, image, strip)."""
        cut = plan(workload, config, machine)
        return len(cut.groups) * workload.batch * math.ceil(workload.out_height / cut.rows)

    def pack(self, workload: DepthwiseInt8, config, machine: VectorMachine, constants):
        """Weights group by group, the bytes that mean zero, and the epilogue."""
        layer, cut = constants["layer"], plan(workload, config, machine)
        shift = int8_emit.shift_of(machine)
        packed = [
            _pack_group(workload, cut, layer.weight.values[first : first + width, 0])
            for first, width in cut.groups
        ]
        zero = (layer.input_zero.ravel() - shift).astype(machine.byte_type)
        return [np.concatenate(packed), zero, make_epilogue(layer, shift)]

    def build(self, workload: DepthwiseInt8, config, machine: VectorMachine):
        """Generate the convolution."""
        w, cut = workload, plan(workload, config, machine)
        strips = math.ceil(w.out_height / cut.rows)
        words = cut.rows * cut.row_groups * w.kernel[1]
        sizes = {
            "x": (w.batch * w.height * w.width * w.channels, machine.byte_type),
            "weight": (words * sum(width for _, width in cut.groups), "int32"),
            "zero": (w.channels, machine.byte_type),
            "epilogue": int8_emit.epilogue_size(w, w.channels),
            "y": (w.batch * w.out_height * w.out_width * w.channels, machine.byte_type),
        }
        whole = w.channels // (GROUP * machine.lanes)

        def body(*arguments):
            *tensors, begin, end = arguments
            with emit.tiles(begin, end) as tile:
                group, strip = tile // (w.batch * strips), tile % (w.batch * strips)
                image, first_row = strip // strips, (strip % strips) * cut.rows

                def with_group(channel, width: int, number) -> None:
                    place = _Place(image, first_row, channel, width // GROUP, number * words)
                    _emit_strip(w, cut, machine, place, tensors)

                def narrow(index: int) -> None:
                    channel, width = cut.groups[index]
                    before = sum(other for _, other in cut.groups[:index])
                    if index + 1 == len(cut.groups):
                        with_group(channel, width, before)
                        return
                    emit.branch(
                        group == index,
                        lambda: with_group(channel, width, before),
                        lambda: narrow(index + 1),
                    )

                def wide() -> None:
                    width = GROUP * machine.lanes
                    with_group(group * width, width, group * width)

                if whole == len(cut.groups):
                    wide()
                elif not whole:
                    narrow(0)
                else:
                    emit.branch(group < whole, wide, lambda: narrow(whole))

        return emit.define(sizes, body)


def _pack_group(w: DepthwiseInt8, cut: Plan, weight):
    """(channels, kh, kw) → (vector, output row, row group, kernel column, lane, row in group)."""
    channels = len(weight)
    moved = np.zeros((cut.rows, cut.row_groups * GROUP, w.kernel[1], channels), np.int8)
    for row in range(cut.rows):
        first = row * w.stride[0]
        moved[row, first : first + w.kernel[0]] = weight.transpose(1, 2, 0)
    shape = (cut.rows, cut.row_groups, GROUP, w.kernel[1], VECTORS, channels // VECTORS)
    return np.ascontiguousarray(moved.reshape(shape).transpose(4, 0, 1, 3, 5, 2)).ravel()


@dataclass(frozen=True)
class _Place:
    """A strip of a channel group: `lanes` channels per vector, weights from word `weights` on."""

    image: object
    first_row: object
    channel: object
    lanes: int
    weights: object


def _emit_strip(w: DepthwiseInt8, cut: Plan, machine, at: _Place, tensors) -> None:
    columns = (cut.outputs * cut.tiles - 1) * w.stride[1] + w.kernel[1]
    scratch = emit.local(columns * cut.row_groups * GROUP * at.lanes, "int32")
    width = cut.outputs * cut.tiles

    def fill_and_sum(first_output) -> None:
        for group in range(cut.row_groups):
            _emit_interleave(w, cut, machine, at, group, first_output, columns, tensors, scratch)
        _emit_sums(w, cut, machine, at, first_output, tensors, scratch)

    if cut.chunks == 1:
        fill_and_sum(0)
        return
    with emit.serial(0, cut.chunks) as chunk:
        # The last chunk moves back where it would be incomplete, and repeats some outputs.
        fill_and_sum(tvm.tirx.min(chunk * width, max(0, w.out_width - width)))


def _emit_interleave(
    w, cut: Plan, machine, at: _Place, group, first_output, columns, tensors, scratch
) -> None:
    """Write the scratch's columns of one group of four rows."""
    x, _, zero, *_ = tensors
    width = GROUP * at.lanes
    padding = emit.load(zero, at.channel, width)
    nothing = int8_emit.interleave([padding] * GROUP, at.lanes, machine)
    top = at.first_row * w.stride[0] - w.padding[0] + GROUP * group
    rows = [_row(w, machine, at, top + i, padding, x) for i in range(GROUP)]
    left = first_output * w.stride[1] - w.padding[1]

    def write(column, vectors) -> None:
        for vector, data in enumerate(vectors):
            place = ((vector * cut.row_groups + group) * columns + column) * at.lanes
            emit.store(scratch, place, data, at.lanes)

    first = tvm.tirx.min(tvm.tirx.max(-left, 0), columns)
    last = tvm.tirx.max(tvm.tirx.min(w.width - left, columns), first)
    with emit.serial(0, first) as column:
        write(column, nothing)
    with emit.serial(first, last) as column:
        data = [row((left + column) * w.channels) for row in rows]
        write(column, int8_emit.interleave(data, at.lanes, machine))
    with emit.serial(last, columns) as column:
        write(column, nothing)


def _row(w: DepthwiseInt8, machine, at: _Place, row, padding, x):
    """Return what reads a column of an input row; a row outside the map reads as padding."""
    inside = tvm.tirx.min(tvm.tirx.max(row, 0), w.height - 1)
    start = (at.image * w.height + inside) * w.width * w.channels + at.channel
    is_inside = tvm.tirx.all(row >= 0, row < w.height)
    width, dtype = GROUP * at.lanes, machine.byte_type
    ones = const(255 if dtype == "uint8" else -1, dtype)
    mask = emit.splat(Select(is_inside, ones, const(0, dtype)), width)
    outside = padding & ~mask
    return lambda column: (emit.load(x, start + column, width) & mask) | outside


def _emit_sums(w, cut: Plan, machine, at: _Place, first_output, tensors, scratch) -> None:
    """Compute the outputs that the scratch serves, vector by vector, row by row."""
    columns = (cut.outputs * cut.tiles - 1) * w.stride[1] + w.kernel[1]
    rows = tvm.tirx.min(cut.rows, w.out_height - at.first_row)
    loops = (VECTORS, rows, cut.tiles)
    vectors, rows, tiles = (emit.serial(0, count) for count in loops)
    with vectors as vector, rows as row, tiles as tile:
        at_output = tvm.tirx.min(tile * cut.outputs, w.out_width - first_output - cut.outputs)
        position = (vector, row, first_output, at_output)
        _emit_tile(w, cut, machine, at, position, columns, tensors, scratch)


def _emit_tile(w, cut: Plan, machine, at: _Place, position, columns, tensors, scratch) -> None:
    vector, row, first_output, at_output = position
    _, weight, _, epilogue, y = tensors
    lanes, taps = at.lanes, w.kernel[1]
    sums = emit.local(cut.outputs * lanes, "int32")
    for output in range(cut.outputs):
        emit.store(sums, output * lanes, emit.splat_int(0, lanes), lanes)
    for group in range(cut.row_groups):
        packed = ((vector * cut.rows + row) * cut.row_groups + group) * taps * lanes + at.weights
        weights = [emit.load(weight, packed + tap * lanes, lanes) for tap in range(taps)]
        start = (vector * cut.row_groups + group) * columns + at_output * w.stride[1]
        for column in range((cut.outputs - 1) * w.stride[1] + taps):
            data = emit.load(scratch, (start + column) * lanes, lanes)
            for tap in range(taps):
                output, rest = divmod(column - tap, w.stride[1])
                if rest or not 0 <= output < cut.outputs:
                    continue
                total = emit.load(sums, output * lanes, lanes)
                total = int8_emit.add_products(total, data, weights[tap], lanes, machine)
                emit.store(sums, output * lanes, total, lanes)
    channel = at.channel + vector * lanes
    finish = int8_emit.Epilogue(epilogue, w.channels, w, channel, lanes)
    out_row = at.image * w.out_height + at.first_row + row
    out = (out_row * w.out_width + first_output + at_output) * w.channels + channel
    for output in range(cut.outputs):
        value = finish.apply(emit.load(sums, output * lanes, lanes))
        emit.store(y, out + output * w.channels, int8_emit.to_bytes(value, lanes, machine), lanes)
