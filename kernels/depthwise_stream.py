"""Depthwise convolution with a small window, passing over the input columns once (NEON).

Algorithm
    One vector of channels, `rows` output rows. All weights stay in registers; every input column
    is loaded once and added to the outputs that it reaches, of which only as many are in flight
    as windows overlap. Their accumulators rotate: the loop over columns covers whole turns, so
    that which register holds which output is known. The first and last outputs of a row, whose
    windows lie partly outside the map, are straight code before and behind the loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ofa_compile.compiler.workload import Depthwise
from ofa_compile.kernels import emit, folded
from ofa_compile.kernels.columns import ColumnTile, users

# Shorter loops are written out.
MIN_TURNS = 2


@dataclass(frozen=True)
class Place:
    """Which vector of which image: `lanes` channels, `offset` behind the start of their block."""

    image: object
    block_start: object
    block_width: int
    lanes: int
    offset: int = 0

    @property
    def channel(self):
        """The vector's first channel."""
        return self.block_start + self.offset


def emit_rows(w: Depthwise, outputs: int, at: Place, rows: ColumnTile, top, tensors) -> None:
    """Emit a tile of whole output rows from row `top` on, about `outputs` a turn of the loop."""
    _Stream(w, at, rows, top, tensors).emit(outputs)


class _Stream:
    def __init__(self, w: Depthwise, at: Place, rows: ColumnTile, top, tensors) -> None:
        self.w, self.at, self.top = w, at, top
        self.x, self.weight, self.bias, self.y = tensors
        self.kernel, self.stride, self.padding = w.kernel[1], w.stride[1], w.padding[1]
        self.height = rows.width
        self.by_row = users(rows, w.kernel[0], w.stride[0], w.padding[0], w.height)
        self.in_flight = math.ceil(self.kernel / self.stride)
        self.sums = emit.local(self.in_flight * self.height * at.lanes, self.y.dtype)
        in_row = at.image * w.height + top * w.stride[0] - w.padding[0]
        self.corner = emit.opaque(in_row * (w.width * w.channels) + at.channel)

    def emit(self, outputs: int) -> None:
        """Emit the row: outputs clipped on the left, a loop of whole turns, the rest."""
        turn = self.in_flight * max(1, outputs // self.in_flight)
        lead = max(0, self.padding + self.stride - self.kernel)
        first = math.ceil(lead / (self.stride * self.in_flight)) * self.in_flight
        inside = (self.w.width - self.kernel + self.padding) // self.stride
        last = min(inside, self.w.out_width - self.in_flight)
        turns = max(0, (last + 1 - first) // turn)
        started: set[int] = set()
        for column in range(self._new_columns(0).start):
            self._add_starting(column, 0, started)
        if turns < MIN_TURNS:
            self._straight(0, self.w.out_width, started)
            return
        self._straight(0, first, started)
        for output in self._open_at(first) - started:
            self._start(output)
        with emit.serial(0, turns) as number:
            for step in range(first, first + turn):
                self._step_inside(step, number * turn)
        after = first + turns * turn
        self._straight(after, self.w.out_width, self._open_at(after))

    def _open_at(self, output: int) -> set[int]:
        """Return the outputs that columns before those of `output` reach already."""
        return set(range(output, output + self.in_flight - 1))

    def _new_columns(self, output: int) -> range:
        """Return the columns that `output` reads and the output before it does not."""
        end = output * self.stride - self.padding + self.kernel
        return range(end - min(self.stride, self.kernel), end)

    def _straight(self, begin: int, end: int, started: set[int]) -> None:
        """Emit outputs `begin` to `end` one by one; `started` grows by what they start."""
        for output in range(begin, end):
            for column in self._new_columns(output):
                self._add_starting(column, output, started)
            if output not in started:  # nothing but padding
                self._start(output)
            self._finish(output, 0)

    def _add_starting(self, column: int, output: int, started: set[int]) -> None:
        """Add a column, if it lies in the map, to outputs from `output` on; start new ones."""
        if not 0 <= column < self.w.width:
            return
        uses = self._uses(column, output)
        for other in {other for other, _ in uses} - started:
            self._start(other)
            started.add(other)
        self._add(column, uses)

    def _step_inside(self, output: int, further) -> None:
        """Emit an output whose window, and those of all that it starts, lie inside the map."""
        for column in self._new_columns(output):
            uses = self._uses(column, output)
            for other, tap in uses:
                if tap == 0:
                    self._start(other)
            self._add(column + further * self.stride, uses)
        self._finish(output, further)

    def _uses(self, column: int, output: int) -> list[tuple[int, int]]:
        """Return (output, kernel column) for the outputs from `output` on that read a column."""
        taps = [
            (other, column - other * self.stride + self.padding)
            for other in range(output, min(output + self.in_flight, self.w.out_width))
        ]
        return [(other, tap) for other, tap in taps if 0 <= tap < self.kernel]

    def _slot(self, row: int, output: int) -> int:
        return (output % self.in_flight * self.height + row) * self.at.lanes

    def _start(self, output: int) -> None:
        bias = emit.load(self.bias, self.at.channel, self.at.lanes)
        for row in range(self.height):
            emit.store(self.sums, self._slot(row, output), bias, self.at.lanes)

    def _add(self, column, uses: Sequence[tuple[int, int]]) -> None:
        """Add one input column to the outputs that it reaches."""
        w, at = self.w, self.at
        panel = at.block_start * (w.kernel[0] * w.kernel[1]) + at.offset
        for in_row, reached in self.by_row.items():
            place = self.corner + (in_row * w.width + column) * w.channels
            value = emit.load(self.x, place, at.lanes)
            for row, tap_row in reached:
                for output, tap in uses:
                    number = tap_row * w.kernel[1] + tap
                    factor = emit.load(self.weight, panel + number * at.block_width, at.lanes)
                    slot = self._slot(row, output)
                    total = emit.load(self.sums, slot, at.lanes) + value * factor
                    emit.store(self.sums, slot, total, at.lanes)

    def _finish(self, output: int, further) -> None:
        w, at = self.w, self.at
        for row in range(self.height):
            value = emit.load(self.sums, self._slot(row, output), at.lanes)
            place = (at.image * w.out_height + self.top + row) * w.out_width + output + further
            value = folded.finish(w, value, at.lanes)
            emit.store(self.y, place * w.channels + at.channel, value, at.lanes)
