from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.search import pareto


def slow_ranks(points: np.ndarray) -> np.ndarray:
    ranks = np.full(len(points), -1)
    rank = 0
    while (ranks < 0).any():
        left = np.flatnonzero(ranks < 0)
        front = [
            i
            for i in left
            if not any(
                (points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left
            )
        ]
        ranks[front] = rank
        rank += 1
    return ranks


@pytest.mark.parametrize("num_objectives", [2, 3])
@pytest.mark.parametrize("levels", [4, 1000])
def test_sort_equals_the_definition(num_objectives: int, levels: int) -> None:
    rng = np.random.default_rng(levels)
    points = rng.integers(0, levels, size=(80, num_objectives)).astype(float)
    expected = slow_ranks(points)
    np.testing.assert_array_equal(pareto.non_dominated_sort(points), expected)
    np.testing.assert_array_equal(pareto.non_dominated_mask(points), expected == 0)


def test_hypervolume_of_known_shapes() -> None:
    corner = np.array([1.0, 1.0])
    assert pareto.hypervolume(np.array([[0.5, 0.5]]), corner) == pytest.approx(0.25)
    stairs = np.array([[0.25, 0.5], [0.5, 0.25], [0.6, 0.6], [2.0, 0.0]])
    assert pareto.hypervolume(stairs, corner) == pytest.approx(0.75 * 0.5 + 0.5 * 0.25)
    cube = np.array([[0.5, 0.5, 0.5], [0.0, 0.9, 0.9]])
    assert pareto.hypervolume(cube, np.ones(3)) == pytest.approx(0.125 + 0.01 - 0.005)
    assert pareto.hypervolume(np.array([[2.0, 2.0]]), corner) == 0.0


def test_hypervolume_3d_equals_sampling() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    samples = rng.random((200_000, 3))
    covered = (points[None] <= samples[:, None]).all(axis=2).any(axis=1).mean()
    assert pareto.hypervolume(points, np.ones(3)) == pytest.approx(covered, abs=0.005)


def test_crowding_keeps_the_ends_and_prefers_gaps() -> None:
    points = np.array([[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [4.0, 0.0]])
    distance = pareto.crowding_distance(points, np.zeros(4, dtype=np.int64))
    assert np.isinf(distance[[0, 3]]).all()
    assert distance[2] > distance[1]


def test_crowding_is_per_rank() -> None:
    points = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [3.0, 2.0], [2.5, 2.5]])
    distance = pareto.crowding_distance(points, pareto.non_dominated_sort(points))
    assert np.isinf(distance[:4]).all()
    assert distance[4] == pytest.approx(2.0)


def test_knee_is_the_bend_whatever_the_units() -> None:
    front = np.array([[0.0, 10.0], [1.0, 2.0], [5.0, 1.0], [10.0, 0.0]])
    assert pareto.knee_index(front) == 1
    assert pareto.knee_index(front * np.array([1e6, 1e-6])) == 1
    assert pareto.knee_index(front[:1]) == 0


def test_thinning_keeps_ends_and_count() -> None:
    x = np.sort(np.random.default_rng(1).random(500)) ** 3
    front = np.c_[x, 1 - x]
    picked = pareto.thin_front(front, 50)
    assert len(np.unique(picked)) == 50
    assert {0, 499} <= set(picked.tolist())
    assert (np.diff(front[picked, 0]) >= 0).all()
    assert len(pareto.thin_front(front[:7], 50)) == 7


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        pareto.non_dominated_mask(np.zeros((0, 2)))
    with pytest.raises(ValueError, match="NaN"):
        pareto.non_dominated_sort(np.array([[np.nan, 1.0]]))
