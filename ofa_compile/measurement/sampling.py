"""Which subnets to measure: those that teach a latency predictor most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArchitectureError
from ofa_compile.predictors.features import LatencyFeatures
from ofa_compile.predictors.slot_tables import Indices
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

_POOL_SIZE = 2000
# As in the predictor's base: blocks count for less than the network's totals.
_SLOT_WEIGHT = 0.05


def choose_architectures(
    space: SearchSpace, count: int, *, seed: int = 0, resolution: int | None = None
) -> list[Architecture]:
    """Choose different architectures to measure, alternating extreme and ordinary ones.

    Every second one is the member of a random pool about which a linear model knows least; the
    others are drawn uniformly, so that the middle is not neglected. A larger `count` with the same
    seed continues the same list.

    Parameters
    ----------
    space
        The search space.
    count
        How many.
    seed
        Draws the pool.
    resolution
        Only this resolution of the space; all of them if None.

    Raises
    ------
    ArchitectureError
        If the space does not have the resolution.
    """
    pool = _pool(space, max(_POOL_SIZE, 2 * count), seed, resolution)
    batch = LatencyFeatures(space).batch(pool)
    columns = np.concatenate(
        [_standardised(batch.summary), _SLOT_WEIGHT * _standardised(batch.per_slot)], axis=1
    )
    chosen = informative_rows(columns, min(count, len(pool)))
    return [space.from_indices(pool[row]) for row in chosen]


def draw_architectures(
    space: SearchSpace, count: int, *, seed: int = 0, resolution: int | None = None
) -> list[Architecture]:
    """Draw different architectures uniformly: what a predictor's error is stated on.

    Parameters and errors are those of `choose_architectures`; a larger `count` continues the list.
    """
    pool = _pool(space, max(_POOL_SIZE, 2 * count), seed, resolution)
    return [space.from_indices(row) for row in pool[:count]]


def _pool(space: SearchSpace, size: int, seed: int, resolution: int | None) -> Indices:
    """Draw different architectures, as choice indices of shape (at most size, genes)."""
    rng = np.random.default_rng(seed)
    pool = space.sample_indices(rng, size)
    if resolution is not None:
        if resolution not in space.resolutions:
            known = ", ".join(map(str, space.resolutions))
            msg = f"{space.name} has no resolution {resolution}; it has {known}"
            raise ArchitectureError(msg, hint="measure one of these")
        pool[:, 0] = space.resolutions.index(resolution)
    _, first = np.unique(pool, axis=0, return_index=True)
    return pool[np.sort(first)]


def informative_rows(columns: NDArray[np.float64], count: int) -> list[int]:
    """Choose rows: alternately the least known one (D-optimal design), and the next unused one.

    Parameters
    ----------
    columns
        Standardised features, of shape (n, num_columns), in random order.
    count
        How many rows, at most n.
    """
    rows = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    inverse = np.eye(rows.shape[1]) * 1e3
    unknown = np.einsum("ni,ij,nj->n", rows, inverse, rows)
    chosen: list[int] = []
    is_free = np.ones(len(rows), dtype=bool)
    while len(chosen) < count:
        if len(chosen) % 2 == 0:
            row = int(np.argmax(np.where(is_free, unknown, -np.inf)))
        else:
            row = int(np.argmax(is_free))
        chosen.append(row)
        is_free[row] = False
        # Sherman-Morrison: what knowing this row tells about all the others.
        gain = inverse @ rows[row]
        scale = 1.0 + float(rows[row] @ gain)
        unknown = unknown - (rows @ gain) ** 2 / scale
        inverse = inverse - np.outer(gain, gain) / scale
    return chosen


def reference_architecture(space: SearchSpace, resolution: int | None = None) -> Architecture:
    """Return the network to interleave with: the middle one of every choice."""
    row = np.array([(len(gene.choices) - 1) // 2 for gene in space.genes], dtype=np.int64)
    if resolution is not None:
        row[0] = space.resolutions.index(resolution)
    return space.from_indices(space.mark_absent(row[None])[0])


def _standardised(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return columns of mean 0 and standard deviation 1, constant ones as zeros."""
    deviation = columns.std(axis=0)
    centred: NDArray[np.float64] = columns - columns.mean(axis=0)
    return centred / np.where(deviation > 1e-12, deviation, np.inf)
