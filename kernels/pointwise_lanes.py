"""Pointwise convolution where a multiply-add takes one lane of a vector as its scalar (NEON).

Algorithm
    As `pointwise`: a register-tiled matrix product. Here the inputs of a row are read as vectors
    of `step` channels, whose lanes multiply the weights; so every row also keeps its inputs in
    registers, and weights pass by in pairs. On narrow cores every instruction takes an issue
    slot, hence: where registers are to spare, the loop over channels takes many at once; a call
    computes *strips* of row tiles, so that addresses only advance; and constants of the
    activation are folded into the weights (`folded`).
Packing
    Weights lie as one (in_channels, block width) panel per block. The bias of a block is repeated
    for each row of a tile: accumulators are then loaded in pairs instead of copied one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Pointwise
from ofa_compile.kernels import emit, folded

# Straight code per loop step where registers are to spare. LLVM moves loads ahead: where none
# are, every further load in the same piece of code is a spill (measured: 7 % more instructions).
MAX_UNROLL = 24
SPARE_REGISTERS = 2
# A lane of halves multiplies from the first 16 registers only, and there are twice as many lanes.
# With more rows, more straight code, no register to spare or no loop at all LLVM spills (measured:
# up to twice as many instructions).
HALF_ROWS = 8
HALF_UNROLL = 16
# One row gives no reuse of weights: only loop control is to be spread over many outputs.
VECTORS_FOR_ONE_ROW = 8
# Row tiles per call step: enough to forget the division that finds a tile.
STRIP = 8
# A pair of loads reaches 1 KiB from its pointer: weights of one loop step, and rows whose inputs
# are loaded in pairs, must not lie further apart.
PAIR_REACH_BYTES = 1024
# Where all weights fit into half a small L1 cache, they stay there and the map streams by once.
STAYING_WEIGHTS_BYTES = 16384


@dataclass(frozen=True)
class Block:
    """Equally wide output blocks and how their rows are tiled and read."""

    first_column: int
    count: int
    pieces: tuple[tuple[int, int], ...]
    step: int
    unroll: int
    rows: int
    whole_tiles: int
    last_rows: int

    @property
    def width(self) -> int:
        """Output channels of one block."""
        return sum(lanes for _, lanes in self.pieces)

    @property
    def strips(self) -> int:
        """Independent pieces of the map's rows."""
        return max(1, math.ceil(self.whole_tiles / STRIP))

    @property
    def num_tiles(self) -> int:
        """Tiles of all blocks of the group."""
        return self.count * self.strips


def _rows_that_fit(pieces: int, step: int, machine: VectorMachine) -> int:
    """Most rows whose accumulators and inputs fit beside a pair of weights."""
    inputs = step // machine.lanes
    if machine.value_type == "float16":
        rows = (machine.registers - 2 - SPARE_REGISTERS) // (pieces + inputs)
        return max(1, min(rows, HALF_ROWS))
    return max(1, (machine.registers - 2) // (pieces + inputs))


def _block(workload: Pointwise, first: int, count: int, width: int, step, machine) -> Block:
    """Tile a group's rows: the tile of fewest instructions, of the largest that fit."""
    pieces = tuple(emit.split_lanes(width, machine.lanes))
    most = _rows_that_fit(len(pieces), step, machine)
    row_bytes = workload.in_channels * machine.value_bytes
    is_far = (most - 1) * row_bytes > PAIR_REACH_BYTES
    if step > machine.lanes and (is_far or workload.in_channels < 2 * step):
        step = machine.lanes
        most = _rows_that_fit(len(pieces), step, machine)
    blocks = []
    for fit in range(most, max(0, most - 3), -1):
        rows = math.ceil(workload.rows / math.ceil(workload.rows / fit))  # balanced
        whole, last = divmod(workload.rows, rows)
        unroll = _unroll(workload.in_channels, len(pieces), step, rows, machine)
        blocks.append(Block(first, count, pieces, step, unroll, rows, whole, last))
    return min(blocks, key=lambda block: _block_instructions(workload, block))


def _unroll(depth: int, pieces: int, step: int, rows: int, machine: VectorMachine) -> int:
    """Input channels per loop step: if registers allow, the most that divide the depth."""
    # Inputs of rows that are within reach are loaded in pairs, whatever the step.
    is_paired = (rows - 1) * depth * machine.value_bytes <= PAIR_REACH_BYTES
    used = rows * (pieces + (2 if is_paired else 1)) + 2
    if used + SPARE_REGISTERS > machine.registers or depth <= step:
        return min(step, depth)
    reach = PAIR_REACH_BYTES // (16 * pieces)
    most = min(MAX_UNROLL, reach)
    if machine.value_type == "float16":
        most = min(most, HALF_UNROLL, depth // 2)
    choices = [n for n in range(most, step, -1) if n % step == depth % n == 0]
    return choices[0] if choices else step


def plan_blocks(workload: Pointwise, config, machine: VectorMachine) -> list[Block]:
    """Cut the outputs into blocks: as many of the full width as fit, then one narrower."""
    width = min(config["vectors"] * machine.lanes, workload.out_channels)
    count, rest = divmod(workload.out_channels, width)
    blocks = [_block(workload, 0, count, width, config["step"], machine)]
    if rest:
        blocks.append(_block(workload, count * width, 1, rest, config["step"], machine))
    return blocks


def _instructions(workload: Pointwise, config, machine: VectorMachine) -> float:
    """Model of the instructions of one run; what `configs` sorts by."""
    blocks = plan_blocks(workload, config, machine)
    return sum(_block_instructions(workload, block) for block in blocks)


def _block_instructions(workload: Pointwise, block: Block) -> float:
    total = block.whole_tiles * _tile_instructions(workload, block, block.rows)
    if block.last_rows:
        total += _tile_instructions(workload, block, block.last_rows)
    return block.count * total


def _tile_instructions(workload: Pointwise, block: Block, rows: int) -> float:
    pieces = len(block.pieces)
    loads = rows / block.step + pieces / 2
    loop = 0.0 if block.unroll == workload.in_channels else 4.0 / block.unroll
    # Fewer than eight independent multiply-adds wait for each other.
    chain = max(1.0, 8.0 / (rows * pieces))
    epilogue = {"none": 0, "relu": 1, "relu6": 2, "hsigmoid": 2, "hswish": 4}[workload.activation]
    start = 1.5 if workload.has_residual else 0.5
    per_channel = rows * pieces * chain + loads + loop
    return workload.in_channels * per_channel + rows * pieces * (start + epilogue + 0.75) + 16


def configs(workload: Pointwise, machine: VectorMachine):
    """Register tiles that fit, the one of fewest instructions first."""
    if workload.rows == 1:
        return [{"vectors": VECTORS_FOR_ONE_ROW, "step": machine.lanes}]
    most = min(6, machine.registers // 3, math.ceil(workload.out_channels / machine.lanes))
    steps = (machine.lanes, 2 * machine.lanes)
    choices = [{"vectors": n, "step": step} for n in range(1, most + 1) for step in steps]
    return sorted(choices, key=lambda config: _instructions(workload, config, machine))


def pack_bias(workload: Pointwise, config, machine: VectorMachine, bias):
    """Repeat each block's bias for the rows of its tile; a residual's sum needs it once."""
    bias = folded.fold_bias(workload, bias)
    panels = []
    for block in plan_blocks(workload, config, machine):
        for index in range(block.count):
            start = block.first_column + index * block.width
            panels.append(np.tile(bias[start : start + block.width], _copies(workload, block)))
    return np.ascontiguousarray(np.concatenate(panels), np.float32)


def _copies(workload: Pointwise, block: Block) -> int:
    return 1 if workload.has_residual else block.rows


def build(workload: Pointwise, config, machine: VectorMachine):
    """Generate the matrix product."""
    blocks = plan_blocks(workload, config, machine)
    sizes = {"x": workload.rows * workload.in_channels}
    if workload.has_residual:
        sizes["residual"] = workload.rows * workload.out_channels
    sizes["weight"] = workload.in_channels * workload.out_channels
    sizes["bias"] = sum(b.count * b.width * _copies(workload, b) for b in blocks)
    sizes["y"] = workload.rows * workload.out_channels

    def body(*arguments):
        *buffers, begin, end = arguments
        x, *residual, weight, bias, y = buffers
        tensors = (x, residual[0] if residual else None, weight, bias, y)
        with emit.tiles(begin, end) as tile:
            _emit_groups(workload, machine, blocks, 0, tile, tensors)

    return emit.define(sizes, body, machine.value_type)


def _emit_groups(workload, machine, blocks, bias_start: int, tile, tensors) -> None:
    head, *rest = blocks
    if not rest:
        _emit_strip(workload, machine, head, bias_start, tile, tensors)
        return
    after = bias_start + head.count * head.width * _copies(workload, head)
    emit.branch(
        tile < head.num_tiles,
        lambda: _emit_strip(workload, machine, head, bias_start, tile, tensors),
        lambda: _emit_groups(workload, machine, rest, after, tile - head.num_tiles, tensors),
    )


def _emit_strip(workload, machine, block: Block, bias_start: int, tile, tensors) -> None:
    """Emit up to `STRIP` row tiles of one block, and after the last strip the rows left over."""
    weights = workload.in_channels * workload.out_channels
    if weights * machine.value_bytes <= STAYING_WEIGHTS_BYTES:
        strip, index = tile // block.count, tile % block.count
    else:
        index, strip = tile // block.strips, tile % block.strips

    def with_rows(rows: int, number) -> None:
        zero = emit.varying_zero(number)
        panel = block.first_column * workload.in_channels
        weight_at = panel + index * (block.width * workload.in_channels) + zero
        bias_at = bias_start + index * (block.width * _copies(workload, block)) + zero
        out = number * (block.rows * workload.out_channels)
        out = out + block.first_column + index * block.width
        row = number * block.rows
        _emit_tile(workload, machine, block, rows, (row, out, weight_at, bias_at), tensors)

    stop = tvm.tirx.min((strip + 1) * STRIP, block.whole_tiles)
    with emit.serial(strip * STRIP, stop) as number:
        with_rows(block.rows, number)
    if block.last_rows:
        is_last = strip == block.strips - 1
        emit.when(is_last, lambda: with_rows(block.last_rows, strip * 0 + block.whole_tiles))


def _emit_tile(workload, machine, block: Block, rows: int, places, tensors) -> None:
    """Emit one tile; `places` are its first row, output, weight and bias."""
    row, out, weight_at, bias_at = places
    x, residual, weight, bias, y = tensors
    depth, width = workload.in_channels, block.width
    sums = emit.local(rows * width, y.dtype)
    for i in range(rows):
        for offset, lanes in block.pieces:
            copy = 0 if residual is not None else i * width
            start = emit.load(bias, bias_at + copy + offset, lanes)
            if residual is not None:
                at = out + i * workload.out_channels + offset
                start = start + emit.load(residual, at, lanes)
            emit.store(sums, i * width + offset, start, lanes)

    def channels(first, count: int) -> None:
        """Add `count` input channels as straight code, inputs by vectors of `step`."""
        done = 0
        for _, lanes in emit.split_lanes(count, block.step):
            at = [(row + i) * depth + first + done for i in range(rows)]
            inputs = [_load_lanes(x, start, lanes, machine) for start in at]
            for k in range(lanes):
                multiply(first + done + k, [value[k] for value in inputs])
            done += lanes

    def multiply(k, factors) -> None:
        for offset, lanes in block.pieces:
            vector = emit.load(weight, weight_at + k * width + offset, lanes)
            for i in range(rows):
                at = i * width + offset
                total = emit.load(sums, at, lanes) + emit.splat(factors[i], lanes) * vector
                emit.store(sums, at, total, lanes)

    with emit.serial(0, depth // block.unroll) as piece:
        channels(piece * block.unroll, block.unroll)
    if depth % block.unroll:
        channels(depth - depth % block.unroll, depth % block.unroll)

    for i in range(rows):
        for offset, lanes in block.pieces:
            value = emit.load(sums, i * width + offset, lanes)
            value = folded.finish(workload, value, lanes)
            emit.store(y, out + i * workload.out_channels + offset, value, lanes)


def _load_lanes(x, start, lanes: int, machine: VectorMachine):
    """Return `lanes` consecutive inputs as scalars, read by whole vectors."""
    scalars = []
    for offset, size in emit.split_lanes(lanes, machine.lanes):
        vector = emit.load(x, start + offset, size)
        scalars += [emit.lane(vector, k) if size > 1 else vector for k in range(size)]
    return scalars
