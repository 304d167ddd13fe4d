"""Pointwise convolution and dense layer: one register-tiled matrix product.

Algorithm
    The outputs are cut into blocks of `vectors` vector registers. For a block, `rows` rows of the
    map are multiplied at once: the accumulators (rows x vectors) start from bias and residual,
    every input channel adds `x[row, k] * w[k, block]`, and the activation is applied on the way
    out, so that each value is loaded and stored exactly once.
Packing
    Weights lie as one (in_channels, block width) panel per block: the inner loop reads them
    sequentially, and a panel stays in the L1 or L2 cache while all rows pass over it.
Source
    The register-tile argument is that of Goto and van de Geijn, "Anatomy of high-performance
    matrix multiplication", TOMS 2008, section 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.workload import Pointwise
from ofa_compile.kernels import emit, folded, pointwise_lanes

# One row gives no reuse of weights: it is bound by reading them, so only enough independent
# accumulators to hide the multiply-add latency (4 cycles x 2 units) are wanted.
VECTORS_FOR_ONE_ROW = 8
# Each row is a stream of its own to the prefetchers and the TLB; measured: beyond a dozen or so
# the inner loop slows down, whatever the registers allow.
MAX_ROWS = 14
# A panel of weights beyond this many values does not stay in the L1 cache while rows pass over it,
# and the L2 cache delivers a vector about every third issue slot.
L1_PANEL = 4096
L2_SLOTS = 3
# A vector of 512 bits takes both multiply-add units of a core, so loads keep up with a single
# vector of outputs. Its multiply-adds take their input from memory; wider tiles broadcast inputs
# first, and lose this many slots at the start of a tile (measured: 33-43 next to 6).
WIDE_LANES = 16
WIDE_LOAD_SLOTS = 0.6
WIDE_TILE_START = 40


@dataclass(frozen=True)
class Block:
    """A group of equally wide output blocks and how its rows are tiled."""

    first_column: int
    count: int
    pieces: tuple[tuple[int, int], ...]
    rows: int
    row_tiles: int
    last_rows: int

    @property
    def width(self) -> int:
        """Output channels of one block."""
        return sum(lanes for _, lanes in self.pieces)

    @property
    def num_tiles(self) -> int:
        """Tiles of all blocks of the group."""
        return self.count * self.row_tiles


def _block(workload: Pointwise, first: int, count: int, width: int, max_rows: int, lanes: int):
    row_tiles = math.ceil(workload.rows / max_rows)
    rows = math.ceil(workload.rows / row_tiles)  # balanced, so that the last tile is not tiny
    row_tiles = math.ceil(workload.rows / rows)
    last = workload.rows - (row_tiles - 1) * rows
    return Block(first, count, tuple(emit.split_lanes(width, lanes)), rows, row_tiles, last)


def rows_that_fit(pieces: int, machine: VectorMachine) -> int:
    """Most rows whose accumulators fit beside the weights and the broadcast multiplier."""
    rows = (machine.registers - pieces - 1) // pieces
    return max(1, min(MAX_ROWS, rows))


def plan_blocks(workload: Pointwise, config, machine: VectorMachine) -> list[Block]:
    """Cut the outputs into blocks: as many of the full width as fit, then one narrower."""
    lanes = machine.lanes
    width = min(config["vectors"] * lanes, workload.out_channels)
    count, rest = divmod(workload.out_channels, width)
    blocks = []
    for first, number, columns in ((0, count, width), (count * width, min(rest, 1), rest)):
        if number:
            pieces = len(emit.split_lanes(columns, lanes))
            fit = rows_that_fit(pieces, machine)
            if columns == width:
                fit = min(fit, config["rows"])
            blocks.append(_block(workload, first, number, columns, fit, lanes))
    return blocks


def block_widths(workload: Pointwise, config, machine: VectorMachine) -> tuple[int, ...]:
    """Width of every panel of the packed weights, in order."""
    plan = pointwise_lanes.plan_blocks if machine.has_lane_multiply else plan_blocks
    blocks = plan(workload, config, machine)
    return tuple(block.width for block in blocks for _ in range(block.count))


def _cost(workload: Pointwise, config, machine: VectorMachine) -> float:
    """Issue slots of all tiles."""
    total = 0.0
    for block in plan_blocks(workload, config, machine):
        start = 0
        if machine.lanes >= WIDE_LANES and len(block.pieces) > 1:
            start = WIDE_TILE_START
        for rows, count in ((block.rows, block.row_tiles - 1), (block.last_rows, 1)):
            slots = _slots(block, rows, machine)
            if block.width * workload.in_channels > L1_PANEL:
                slots = max(slots, L2_SLOTS * len(block.pieces))
            total += block.count * count * (workload.in_channels * slots + start)
    return total


def _slots(block: Block, rows: int, machine: VectorMachine) -> float:
    """Issue slots of one tile and input channel."""
    pieces = len(block.pieces)
    # Short chains of dependent multiply-adds leave issue slots empty.
    latency = max(1.0, 8.0 / (rows * pieces))
    arithmetic = rows * latency * _row_slots(block, machine)
    loads = rows + pieces
    if machine.lanes >= WIDE_LANES:
        return max(arithmetic, WIDE_LOAD_SLOTS * loads)
    return max(arithmetic, loads) + 0.1 * loads


def _row_slots(block: Block, machine: VectorMachine) -> float:
    slots = sum(max(0.5, lanes / machine.lanes) for _, lanes in block.pieces)
    # Between whole vectors, a half leaves one of both units without work (measured: 1.8-2.1).
    return 2.0 if machine.lanes >= WIDE_LANES and slots == 1.5 else slots


@register
class PointwiseKernel:
    """Serves every pointwise workload."""

    kind = Pointwise.kind

    def configs(self, workload: Pointwise, machine: VectorMachine):
        """Register tiles that fit, best first by the issue-slot model above."""
        if machine.has_lane_multiply:
            return pointwise_lanes.configs(workload, machine)
        if workload.rows == 1:
            return [{"vectors": VECTORS_FOR_ONE_ROW, "rows": 1}]
        choices = []
        most = min(6, machine.registers // 3, math.ceil(workload.out_channels / machine.lanes))
        for vectors in range(1, most + 1):
            rows = rows_that_fit(vectors, machine)
            choices.append({"vectors": vectors, "rows": rows})
        return sorted(choices, key=lambda config: _cost(workload, config, machine))

    def num_tiles(self, workload: Pointwise, config, machine: VectorMachine) -> int:
        """One tile per (output block, row tile)."""
        plan = pointwise_lanes.plan_blocks if machine.has_lane_multiply else plan_blocks
        return sum(block.num_tiles for block in plan(workload, config, machine))

    def pack(self, workload: Pointwise, config, machine: VectorMachine, constants):
        """Weights (out_channels, in_channels) to panels; bias as it is."""
        bias = np.ascontiguousarray(constants["bias"], np.float32)
        if machine.has_lane_multiply:
            bias = pointwise_lanes.pack_bias(workload, config, machine, bias)
        if workload.has_dynamic_weights:
            return [bias]
        return [pack_weights(workload, config, machine, constants["weight"]), bias]

    def fetch_steps(self, workload: Pointwise, config, machine: VectorMachine) -> int:
        """One step per tile and input channel; a single row is itself bound by memory.

        None where instructions count: with lane multiplies.
        """
        if workload.rows == 1 or machine.has_lane_multiply:
            return 0
        return self.num_tiles(workload, config, machine) * workload.in_channels

    def build(self, workload: Pointwise, config, machine: VectorMachine, *, fetches: bool = False):
        """Generate the matrix product."""
        if machine.has_lane_multiply:
            return pointwise_lanes.build(workload, config, machine)
        sizes = {"x": workload.rows * workload.in_channels}
        if workload.has_residual:
            sizes["residual"] = workload.rows * workload.out_channels
        sizes["weight"] = workload.in_channels * workload.out_channels
        sizes["bias"] = workload.out_channels
        sizes["y"] = workload.rows * workload.out_channels
        blocks = plan_blocks(workload, config, machine)

        def body(*arguments):
            *arguments, fetch = arguments if fetches else (*arguments, None)
            *buffers, begin, end = arguments
            x, *residual, weight, bias, y = buffers
            tensors = (x, residual[0] if residual else None, weight, bias, y)
            with emit.tiles(begin, end) as tile:
                fetch_line = _line_fetcher(fetch, tile * workload.in_channels)
                emit_tile = partial(_emit_tile, workload, machine, (*tensors, fetch_line))
                at_tile(blocks, tile, emit_tile)

        return emit.define(sizes, body, fetches=fetches)


def pack_weights(workload: Pointwise, config, machine: VectorMachine, weight):
    """Cut (out_channels, in_channels) weights into panels of (in_channels, block width)."""
    if machine.has_lane_multiply:
        weight = folded.fold_weight(workload, weight)
    columns = weight.reshape(workload.out_channels, workload.in_channels).T
    panels, first = [], 0
    for width in block_widths(workload, config, machine):
        panels.append(columns[:, first : first + width].ravel())
        first += width
    return np.ascontiguousarray(np.concatenate(panels), np.float32)


def _line_fetcher(fetch, first):
    """Return what an inner step calls with its number."""
    if fetch is None:
        return lambda k: None
    return lambda k: fetch.line(first + k)


def at_tile(blocks: list[Block], tile, emit_tile: Callable) -> None:
    """Emit `emit_tile(block, rows, row, column)` for the tile of that number over all blocks."""
    head, *rest = blocks
    if not rest:
        _at_tile_of_block(head, tile, emit_tile)
        return
    emit.branch(
        tile < head.num_tiles,
        lambda: _at_tile_of_block(head, tile, emit_tile),
        lambda: at_tile(rest, tile - head.num_tiles, emit_tile),
    )


def _at_tile_of_block(block: Block, tile, emit_tile: Callable) -> None:
    column = block.first_column + (tile // block.row_tiles) * block.width
    row = (tile % block.row_tiles) * block.rows

    def with_rows(rows: int) -> None:
        emit_tile(block, rows, row, column)

    if block.last_rows == block.rows:
        with_rows(block.rows)
        return
    is_whole = tile % block.row_tiles < block.row_tiles - 1
    emit.branch(is_whole, lambda: with_rows(block.rows), lambda: with_rows(block.last_rows))


def _emit_tile(workload, machine, tensors, block: Block, rows, row, column) -> None:
    x, residual, weight, bias, y, fetch_line = tensors
    depth, width = workload.in_channels, block.width
    accumulators = emit.local(rows * width)
    for i in range(rows):
        for offset, lanes in block.pieces:
            start = emit.load(bias, column + offset, lanes)
            if residual is not None:
                at = (row + i) * workload.out_channels + column + offset
                start = start + emit.load(residual, at, lanes)
            emit.store(accumulators, i * width + offset, start, lanes)

    def multiply(k, multipliers) -> None:
        start = column * depth + k * width
        if rows > 1 and len(block.pieces) == 1:
            # The next panel is on its way while rows pass over this one.
            emit.prefetch(weight, start + depth * width)
        weights = [emit.load(weight, start + offset, lanes) for offset, lanes in block.pieces]
        # The weights stay and one broadcast input passes by at a time; the compiler keeps this
        # order. In the other one all inputs stay alive and the accumulators spill (measured:
        # half the speed).
        for i in range(rows):
            for (offset, lanes), factor in zip(block.pieces, weights, strict=True):
                at = i * width + offset
                total = emit.load(accumulators, at, lanes)
                emit.store(
                    accumulators, at, total + emit.splat(multipliers[i], lanes) * factor, lanes
                )

    with emit.serial(0, depth) as k:
        fetch_line(k)
        multiply(k, [x[(row + i) * depth + k] for i in range(rows)])

    for i in range(rows):
        for offset, lanes in block.pieces:
            value = emit.load(accumulators, i * width + offset, lanes)
            value = emit.activate(value, workload.activation, lanes)
            emit.store(y, (row + i) * workload.out_channels + column + offset, value, lanes)
