from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.search.constraints import Limits
from ofa_compile.search.problem import SearchProblem, distinct_rows, neighbours
from ofa_compile.space import cost
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space, search_spaces
from ofa_compile.space.search_space import ABSENT


class Slow:
    """A predictor with nothing but `predict`."""

    def predict(self, architectures: object) -> np.ndarray:
        return np.array([a.resolution / 100 for a in architectures])  # type: ignore[attr-defined]


class Encoded(Slow):
    def predict_encoded(self, codes: np.ndarray) -> np.ndarray:
        return codes.sum(axis=1)


class Narrow(Slow):
    kind = "estimate"
    resolutions = (28, 32, 64)


SPACE = search_space("ofa_mbv3_cifar")


def test_every_kind_of_predictor_is_asked_rightly() -> None:
    rows = SPACE.sample_indices(np.random.default_rng(0), 9)
    sizes = np.array(SPACE.resolutions)[rows[:, 0]] / 100
    problem = SearchProblem(SPACE, accuracy=Encoded(), latency=Slow())
    np.testing.assert_allclose(problem.figure("latency_ms", rows), sizes)
    np.testing.assert_allclose(problem.figure("accuracy", rows), len(SPACE.genes))
    objectives, violations = problem.score(rows)
    np.testing.assert_allclose(objectives[:, 1], sizes)
    assert not violations.any()
    assert problem.num_evaluated == 9
    assert problem.latency_kind == "measurement"


def test_cost_is_latency_or_the_one_limit_or_macs() -> None:
    def name(latency: Slow | None = None, **limits: float) -> str:
        chosen = Limits(**limits)
        return SearchProblem(SPACE, accuracy=Slow(), latency=latency, limits=chosen).cost_name

    assert name() == "macs"
    assert name(max_size_bytes=1e6) == "size_bytes"
    assert name(max_size_bytes=1e6, max_activation_bytes=1e6) == "macs"
    assert name(Slow(), max_size_bytes=1e6) == "latency_ms"


def test_resolutions_are_those_that_all_sides_know() -> None:
    problem = SearchProblem(SPACE, accuracy=Slow(), latency=Narrow())
    assert [SPACE.resolutions[i] for i in problem.resolution_choices] == [28, 32]
    assert problem.latency_kind == "estimate"
    rows = problem.sample(np.random.default_rng(0), 50)
    assert set(rows[:, 0]) == set(problem.resolution_choices)
    one = SearchProblem(SPACE, accuracy=Slow(), resolution=24)
    assert set(neighbours(one, one.sample(np.random.default_rng(0), 3))[:, 0]) == {0}
    with pytest.raises(ArchitectureError, match="at resolution 24; space and predictors cover 28"):
        SearchProblem(SPACE, accuracy=Slow(), latency=Narrow(), resolution=24)


def test_no_common_resolution_is_an_error() -> None:
    class Other(Slow):
        resolutions = (999,)

    with pytest.raises(ArchitectureError, match="in common"):
        SearchProblem(SPACE, accuracy=Slow(), latency=Other())


@pytest.mark.parametrize("name", search_spaces())
def test_uniform_rows_hold_smallest_and_largest(name: str) -> None:
    space = search_space(name)
    problem = SearchProblem(space, accuracy=Slow())
    found = problem.architectures(space.mark_absent(problem.uniform_rows()))
    assert space.smallest() in found
    assert space.largest() in found
    for architecture in found:
        space.validate(architecture)


def test_neighbours_are_all_single_changes(tiny_space: MobileNetSpace) -> None:
    problem = SearchProblem(tiny_space, accuracy=Slow())
    row = tiny_space.mark_absent(problem.sample(np.random.default_rng(1), 1))
    full = np.where(row == ABSENT, 0, row)
    moves = neighbours(problem, full)
    assert len(moves) == sum(
        len(gene.choices) - 1
        for gene, value in zip(tiny_space.genes, row[0], strict=True)
        if value != ABSENT
    )
    assert ((moves != full).sum(axis=1) == 1).all()
    assert len(np.unique(moves, axis=0)) == len(moves)


def test_distinct_rows_ignore_what_is_not_expressed(tiny_space: MobileNetSpace) -> None:
    problem = SearchProblem(tiny_space, accuracy=Slow())
    smallest = np.zeros((1, len(tiny_space.genes)), dtype=np.int64)
    silent = smallest.copy()
    names = [gene.name for gene in tiny_space.genes]
    silent[0, names.index("kernel_size.0.1")] = 1
    loud = smallest.copy()
    loud[0, names.index("kernel_size.0.0")] = 1
    rows = np.concatenate([smallest, silent, loud, smallest])
    assert distinct_rows(problem, rows).tolist() == [0, 2]


def test_exact_costs(tiny_space: MobileNetSpace) -> None:
    problem = SearchProblem(tiny_space, accuracy=Slow(), limits=Limits(max_macs=1.0))
    row = tiny_space.indices([tiny_space.largest()])
    objectives, violations = problem.score(row)
    macs = cost.macs(tiny_space.largest(), space=tiny_space)
    assert objectives[0, 1] == macs
    assert violations[0] == macs - 1
