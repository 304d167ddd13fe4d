"""Pointwise convolution and dense layer on bytes: a register-tiled matrix product in int32.

Algorithm
    As the float kernel, with four input channels a step: a word of four bytes of the map is
    repeated over a vector, and one instruction adds its products with four weights of each output
    channel. Sums become the output's bytes on the way out, so nothing wider is ever stored.
Packing
    One (in_channels / 4, block width, 4) panel of weights per block of outputs.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import numpy as np

from ofa_compile.compiler.int8.epilogue import make_epilogue
from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.workload import Pointwise, PointwiseInt8
from ofa_compile.kernels import emit, int8_emit
from ofa_compile.kernels.pointwise import (
    VECTORS_FOR_ONE_ROW,
    Block,
    at_tile,
    plan_blocks,
    rows_that_fit,
)

# Issue slots that turning one vector of sums into bytes takes, whatever its length.
_EPILOGUE_SLOTS = 8.0
# Products of int16 take inputs and weights in two parts, and registers for them.
_PMADD_REGISTERS = 4
# Independent sums that hide the latency of the products' instruction.
_CHAINS = 4.0


def _plan(workload: PointwiseInt8, config, machine: VectorMachine) -> list[Block]:
    """Cut as the float kernel does."""
    shape = Pointwise(workload.rows, workload.in_channels, workload.out_channels)
    return plan_blocks(shape, config, machine)


def _cost(workload: PointwiseInt8, config, machine: VectorMachine) -> float:
    """Issue slots, summed over all tiles."""
    steps = workload.in_channels // int8_emit.GROUP
    total = 0.0
    for block in _plan(workload, config, machine):
        pieces = len(block.pieces)
        for rows, count in ((block.rows, block.row_tiles - 1), (block.last_rows, 1)):
            sums = max(rows * pieces, _CHAINS)
            slots = steps * (max(sums, rows + pieces) + 0.1 * (rows + pieces))
            total += block.count * count * (slots + _EPILOGUE_SLOTS * rows * pieces)
    return total


@register
class PointwiseInt8Kernel:
    """Serves matrix products whose sizes are multiples of four, where such products exist."""

    kind = PointwiseInt8.kind

    def configs(self, workload: PointwiseInt8, machine: VectorMachine):
        """Register tiles that fit, best first by the issue-slot model above."""
        sizes = (workload.in_channels, workload.out_channels)
        if machine.byte_products == "none" or any(size % int8_emit.GROUP for size in sizes):
            return []
        if workload.rows == 1:
            return [{"vectors": VECTORS_FOR_ONE_ROW, "rows": 1}]
        most = min(6, machine.registers // 3, math.ceil(workload.out_channels / machine.lanes))
        spare = _PMADD_REGISTERS if machine.byte_products == "pmadd" else 0
        free = dataclasses.replace(machine, registers=machine.registers - spare)
        choices = [
            {"vectors": vectors, "rows": rows_that_fit(vectors, free)}
            for vectors in range(1, most + 1)
        ]
        return sorted(choices, key=lambda config: _cost(workload, config, machine))

    def num_tiles(self, workload: PointwiseInt8, config, machine: VectorMachine) -> int:
        """One tile per (output block, row tile)."""
        return sum(block.num_tiles for block in _plan(workload, config, machine))

    def pack(self, workload: PointwiseInt8, config, machine: VectorMachine, constants):
        """Panels of the layer's weights, and its epilogue."""
        layer = constants["layer"]
        weight = layer.weight.values.reshape(workload.out_channels, -1, int8_emit.GROUP)
        panels, first = [], 0
        for block in _plan(workload, config, machine):
            for _ in range(block.count):
                panel = weight[first : first + block.width].transpose(1, 0, 2)
                panels.append(panel.ravel())
                first += block.width
        epilogue = make_epilogue(layer, int8_emit.shift_of(machine))
        return [np.concatenate(panels), epilogue]

    def build(self, workload: PointwiseInt8, config, machine: VectorMachine):
        """Generate the matrix product."""
        w = workload
        outputs = w.rows * w.out_channels
        sizes = {"x": (w.rows * w.in_channels // int8_emit.GROUP, "int32")}
        if w.has_residual:
            sizes["residual"] = (outputs, machine.byte_type)
        sizes["weight"] = (w.in_channels * w.out_channels // int8_emit.GROUP, "int32")
        sizes["epilogue"] = int8_emit.epilogue_size(w, w.out_channels)
        sizes["y"] = (outputs, machine.byte_type if w.writes == "bytes" else "float32")
        blocks = _plan(workload, config, machine)

        def body(*arguments):
            *buffers, begin, end = arguments
            x, *residual, weight, epilogue, y = buffers
            tensors = (x, residual[0] if residual else None, weight, epilogue, y)
            with emit.tiles(begin, end) as tile:
                at_tile(blocks, tile, partial(_emit_tile, workload, machine, tensors))

        return emit.define(sizes, body)


def _emit_tile(w: PointwiseInt8, machine, tensors, block: Block, rows, row, column) -> None:
    x, residual, weight, epilogue, y = tensors
    steps, width = w.in_channels // int8_emit.GROUP, block.width
    sums = emit.local(rows * width, "int32")
    for i in range(rows):
        for offset, lanes in block.pieces:
            emit.store(sums, i * width + offset, emit.splat_int(0, lanes), lanes)
    with emit.serial(0, steps) as k:
        start = column * steps + k * width
        weights = [emit.load(weight, start + offset, lanes) for offset, lanes in block.pieces]
        for i in range(rows):
            word = x[(row + i) * steps + k]
            for (offset, lanes), factor in zip(block.pieces, weights, strict=True):
                at = i * width + offset
                total = emit.load(sums, at, lanes)
                repeated = emit.splat(word, lanes)
                total = int8_emit.add_products(total, repeated, factor, lanes, machine)
                emit.store(sums, at, total, lanes)
    for offset, lanes in block.pieces:
        finish = int8_emit.Epilogue(epilogue, w.out_channels, w, column + offset, lanes)
        for i in range(rows):
            at = (row + i) * w.out_channels + column + offset
            other = None if residual is None else emit.load(residual, at, lanes)
            value = finish.apply(emit.load(sums, i * width + offset, lanes), other)
            if w.writes == "bytes":
                value = int8_emit.to_bytes(value, lanes, machine)
            emit.store(y, at, value, lanes)
