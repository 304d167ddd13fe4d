"""Where a candidate's buffers lie, and which of them each call takes: here as on a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ofa_compile.compiler.plan import buffer_phase

OUTPUT = "output"

_MAX_COPIES = 64
# What a kernel fetches on the way is counted in words.
_WORD_BYTES = 4


@dataclass(frozen=True)
class Place:
    """A buffer: what it is filled with, and where in a page it begins."""

    array: str
    phase: int


@dataclass(frozen=True)
class Layout:
    """The buffers of a candidate.

    Weights are there in several copies, taken in turn: in a network they come from the second-level
    cache at best, since all others are read in between.

    Attributes
    ----------
    places
        The buffers.
    rows
        For every copy of the weights, the place of each pointer the kernel takes, and behind them
        of what it fetches on the way: the first weights of the next copy.
    stride
        How many words to fetch at each inner step, no more than a network would.
    """

    places: tuple[Place, ...]
    rows: tuple[tuple[int, ...], ...]
    stride: int


def lay_out(
    pointers: Sequence[str],
    sizes: Mapping[str, int],
    *,
    l2_bytes: int,
    fetch_steps: int,
    fetch_bytes: int,
) -> Layout:
    """Place the arrays that a kernel takes, and its output behind them.

    Parameters
    ----------
    pointers
        Names of the arrays, in the order of the kernel's parameters; weights begin with "packed".
    sizes
        Bytes of each.
    l2_bytes
        Size of the cache that all copies of the weights together must exceed.
    fetch_steps, fetch_bytes
        As in `BuiltCandidate`.
    """
    constant_bytes = sum(sizes[name] for name in pointers if name.startswith("packed"))
    copies = min(_MAX_COPIES, -(-2 * l2_bytes // constant_bytes)) if constant_bytes else 1
    places, shared = [Place(OUTPUT, buffer_phase(0))], dict[str, int]()
    rows = []
    for _ in range(max(1, copies)):
        row = []
        for position, name in enumerate(pointers, start=1):
            if name not in shared:
                is_copied = name.startswith("packed")
                places.append(Place(name, buffer_phase(len(places) if is_copied else position)))
                if not is_copied:
                    shared[name] = len(places) - 1
                row.append(len(places) - 1)
            else:
                row.append(shared[name])
        rows.append([*row, 0])
    first = next((n for n, name in enumerate(pointers) if name.startswith("packed")), 0)
    following = rows[1:] + rows[:1]
    complete = tuple((*row, after[first]) for row, after in zip(rows, following, strict=True))
    fetched = min(constant_bytes, fetch_bytes)
    stride = -(-fetched // (_WORD_BYTES * fetch_steps)) if fetch_steps else 0
    return Layout(tuple(places), complete, stride)
