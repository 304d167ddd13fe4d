"""Cutting an output row into tiles whose clipping at the map's edges is known at compile time.

Padding is never materialised: a tap that would read outside the map is left out of the generated
code. Only a row's first and last tiles are clipped; all tiles between share one body.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ofa_compile.kernels import emit


@dataclass(frozen=True)
class ColumnTile:
    """`count` consecutive tiles of `width` outputs with equal clipping.

    `first_output` is the first output column; `clip_left`/`clip_right` say whether taps can fall
    outside the map, in which case `count` is 1 and the position is a constant.
    """

    first_output: int
    width: int
    count: int
    is_clipped: bool


def at_each_column(tile: ColumnTile, body: Callable) -> None:
    """Emit `body(first output column)` for each of the tiles: a loop where there are several."""
    if tile.count == 1:
        body(tile.first_output)
        return
    with emit.serial(0, tile.count) as index:
        body(tile.first_output + index * tile.width)


def balanced_width(out_width: int, max_width: int) -> int:
    """Return the width of the tiles that a row is cut into, none wider than `max_width`."""
    return math.ceil(out_width / math.ceil(out_width / max_width))


def plan_columns(
    out_width: int, in_width: int, kernel: int, stride: int, padding: int, max_width: int
) -> list[ColumnTile]:
    """Cut `out_width` outputs into balanced tiles of at most `max_width`."""
    width = balanced_width(out_width, max_width)
    starts = list(range(0, out_width, width))
    tiles: list[ColumnTile] = []
    for start in starts:
        size = min(width, out_width - start)
        first_input = start * stride - padding
        last_input = (start + size - 1) * stride - padding + kernel - 1
        is_clipped = first_input < 0 or last_input >= in_width
        previous = tiles[-1] if tiles else None
        if previous and not is_clipped and not previous.is_clipped and previous.width == size:
            tiles[-1] = ColumnTile(previous.first_output, size, previous.count + 1, False)
        else:
            tiles.append(ColumnTile(start, size, 1, is_clipped))
    return tiles


def taps_inside(tile: ColumnTile, tap: int, stride: int, padding: int, in_width: int) -> list[int]:
    """Return the outputs of a tile (0-based inside it) whose kernel column `tap` is in the map."""
    if not tile.is_clipped:
        return list(range(tile.width))
    return [
        output
        for output in range(tile.width)
        if 0 <= (tile.first_output + output) * stride - padding + tap < in_width
    ]


def users(tile: ColumnTile, kernel: int, stride: int, padding: int, size: int):
    """Map each input row (column) of a tile to the (output, kernel row) pairs that read it."""
    users: dict[int, list[tuple[int, int]]] = {}
    for tap in range(kernel):
        for output in taps_inside(tile, tap, stride, padding, size):
            users.setdefault(output * stride + tap, []).append((output, tap))
    return dict(sorted(users.items()))
