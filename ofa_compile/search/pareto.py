"""Pareto fronts: which points are not dominated, in what order, and how much they cover.

Every function takes `objectives` of shape (n_points, n_objectives) and minimises all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Objectives = NDArray[np.float64]

_CHUNK = 2048


def non_dominated_mask(objectives: Objectives) -> NDArray[np.bool_]:
    """Return which points no other point dominates, of shape (n_points,).

    Of points that are equal in every objective, all are kept.
    """
    points = _checked(objectives)
    if points.shape[1] == 2:
        return _non_dominated_mask_2d(points)
    keep = np.ones(len(points), dtype=bool)
    for start in range(0, len(points), _CHUNK):
        block = points[start : start + _CHUNK]
        keep[start : start + _CHUNK] = ~_dominates(points, block).any(axis=0)
    return keep


def non_dominated_sort(objectives: Objectives, count: int | None = None) -> NDArray[np.int64]:
    """Return the rank of every point: 0 is the front, 1 the front of the rest, and so on.

    With two objectives and `count`, ranking stops once so many points have a rank; the rest share
    the one that follows.
    """
    points = _checked(objectives)
    ranks = np.full(len(points), -1, dtype=np.int64)
    if points.shape[1] == 2:
        return _non_dominated_sort_2d(points, ranks, len(points) if count is None else count)
    dominates = _dominates(points, points)
    num_dominators = dominates.sum(axis=0)
    rank = 0
    front = num_dominators == 0
    while front.any():
        ranks[front] = rank
        num_dominators = num_dominators - dominates[front].sum(axis=0)
        front = (num_dominators == 0) & (ranks < 0)
        rank += 1
    return ranks


def crowding_distance(objectives: Objectives, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each point's neighbours of the same rank lie; infinite at the ends."""
    points = _checked(objectives)
    distance = np.zeros(len(points))
    for column in range(points.shape[1]):
        values = points[:, column]
        order = np.lexsort((values, ranks))
        sorted_values, sorted_ranks = values[order], ranks[order]
        starts = np.flatnonzero(np.r_[True, np.diff(sorted_ranks) != 0])
        ends = np.r_[starts[1:] - 1, len(points) - 1]
        span = (sorted_values[ends] - sorted_values[starts])[sorted_ranks - sorted_ranks[0]]
        gap = np.zeros(len(points))
        gap[1:-1] = (sorted_values[2:] - sorted_values[:-2]) / np.where(span > 0, span, 1.0)[1:-1]
        gap[starts] = np.inf
        gap[ends] = np.inf
        distance[order] += gap
    return distance


def hypervolume(objectives: Objectives, reference: NDArray[np.float64]) -> float:
    """Return the volume that the points dominate inside the corner `reference`.

    Parameters
    ----------
    objectives
        Points of shape (n_points, n_objectives); those beyond the reference add nothing.
    reference
        The worst corner, of shape (n_objectives,).
    """
    points = _checked(objectives)
    corner = np.asarray(reference, dtype=np.float64)
    points = points[(points < corner).all(axis=1)]
    if not len(points):
        return 0.0
    points = np.unique(points[non_dominated_mask(points)], axis=0)
    if points.shape[1] == 1:
        return float(corner[0] - points[0, 0])
    if points.shape[1] == 2:
        # Sorted by the first objective, the second falls: a staircase of rectangles.
        heights = np.r_[corner[1], points[:-1, 1]] - points[:, 1]
        return float(((corner[0] - points[:, 0]) * heights).sum())
    total = 0.0
    bounds = np.r_[points[1:, 0], corner[0]]
    for index, thickness in enumerate(bounds - points[:, 0]):
        if thickness > 0:
            total += thickness * hypervolume(points[: index + 1, 1:], corner[1:])
    return total


def knee_index(front: Objectives) -> int:
    """Return the point of the front that lies furthest below the line between its ends.

    Both objectives are scaled to [0, 1] over the front, so units do not matter. With one or two
    points the best in the first objective is returned.
    """
    points = _checked(front)
    order = np.lexsort((points[:, 1], points[:, 0]))
    if len(points) < 3:
        return int(order[0])
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    return int(order[np.argmin(scaled.sum(axis=1)[order])])


def thin_front(front: Objectives, size: int) -> NDArray[np.int64]:
    """Choose `size` points that cover a two-objective front evenly, both ends included.

    Returns
    -------
    Indices in order of the first objective. All of them when there are no more than `size`.
    """
    points = _checked(front)
    order = np.lexsort((points[:, 1], points[:, 0]))
    if len(order) <= size:
        return order
    span = np.ptp(points, axis=0)
    scaled = (points / np.where(span > 0, span, 1.0))[order]
    position = np.r_[0.0, np.cumsum(np.sqrt((np.diff(scaled, axis=0) ** 2).sum(axis=1)))]
    wanted = np.linspace(0.0, position[-1], size)
    picked = np.unique(np.searchsorted(position, wanted).clip(0, len(order) - 1))
    rest = np.setdiff1d(np.arange(len(order)), picked)
    missing = size - len(picked)
    # Where the front is sparse two wanted places share a point: fill up evenly from the others.
    extra = rest[np.linspace(0, len(rest) - 1, missing).astype(np.int64)] if missing else rest[:0]
    kept: NDArray[np.int64] = order[np.sort(np.r_[picked, extra])]
    return kept


def _dominates(first: Objectives, second: Objectives) -> NDArray[np.bool_]:
    """Return for each pair whether `first[i]` dominates `second[j]`, of shape (n, m)."""
    no_worse = np.ones((len(first), len(second)), dtype=bool)
    better = np.zeros((len(first), len(second)), dtype=bool)
    for column in range(first.shape[1]):
        left, right = first[:, column, None], second[None, :, column]
        no_worse &= left <= right
        better |= left < right
    return no_worse & better


def _non_dominated_mask_2d(points: Objectives) -> NDArray[np.bool_]:
    """Sort once: a point survives when nothing before it reaches its second objective."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    first, second = points[order, 0], points[order, 1]
    best_before = np.r_[np.inf, np.minimum.accumulate(second)[:-1]]
    keep = second < best_before
    same = np.r_[False, (np.diff(first) == 0) & (np.diff(second) == 0)]
    # An equal twin lives exactly when the first of its group lives.
    leaders = np.maximum.accumulate(np.where(same, 0, np.arange(len(points))))
    mask = np.zeros(len(points), dtype=bool)
    mask[order] = keep[leaders]
    return mask


def _non_dominated_sort_2d(
    points: Objectives, ranks: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Peel one front after another; each peel is a single sorted pass over what is left."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    rank = 0
    while len(points) - len(order) < min(count, len(points)):
        front = _non_dominated_mask_2d(points[order])
        ranks[order[front]] = rank
        order = order[~front]
        rank += 1
    ranks[order] = rank
    return ranks


def _checked(objectives: Objectives) -> Objectives:
    """Return the points as a float64 matrix without NaN."""
    points = np.asarray(objectives, dtype=np.float64)
    if points.ndim != 2 or not len(points):
        msg = f"objectives must have shape (n_points, n_objectives), got {points.shape}"
        raise ValueError(msg)
    if np.isnan(points).any():
        msg = "objectives hold NaN, which has no place in an order"
        raise ValueError(msg)
    return points
