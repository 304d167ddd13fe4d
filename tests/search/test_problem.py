from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError, ConfigError
from ofa_compile.search.constraints import Limits
from ofa_compile.search.moves import Moves
from ofa_compile.search.problem import SearchProblem
from ofa_compile.space import cost
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space, search_spaces


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
    values, violations = problem.score(rows)
    np.testing.assert_allclose(values[:, 1], sizes)
    assert not violations.any()
    assert problem.num_evaluated == 9
    assert problem.latency_kind("latency_ms") == "measurement"


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
    assert problem.latency_kind("latency_ms") == "estimate"
    rows = problem.sample(np.random.default_rng(0), 50)
    assert set(rows[:, 0]) == set(problem.resolution_choices)
    one = SearchProblem(SPACE, accuracy=Slow(), resolution=24)
    assert set(Moves(one).apply(one.sample(np.random.default_rng(0), 3))[2][:, 0]) == {0}
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


def test_latency_limits_need_their_predictor() -> None:
    with pytest.raises(ConfigError, match=r"max_latency_ms needs .*there are: none"):
        SearchProblem(SPACE, accuracy=Slow(), limits=Limits(max_latency_ms=1.0))
    with pytest.raises(ConfigError, match=r"max_latency_ms for b needs .*there are: a"):
        SearchProblem(
            SPACE, accuracy=Slow(), latency={"a": Slow()}, limits=Limits(max_latency_ms={"b": 1.0})
        )


def test_several_targets_are_figures_of_their_own() -> None:
    class Half(Slow):
        def predict(self, architectures: object) -> np.ndarray:
            return super().predict(architectures) / 2

    limits = Limits(max_latency_ms={"b": 0.14}, max_macs=1e12)
    problem = SearchProblem(
        SPACE, accuracy=Slow(), latency={"a": Slow(), "b": Half()}, limits=limits
    )
    assert problem.figure_names == ("latency_ms@a", "latency_ms@b", "macs")
    rows = problem.sample(np.random.default_rng(0), 30)
    values, violations = problem.score(rows)
    sizes = np.array(SPACE.resolutions)[rows[:, 0]]
    np.testing.assert_allclose(values[:, 1], sizes / 100)
    np.testing.assert_allclose(values[:, 2], sizes / 200)
    np.testing.assert_array_equal(violations > 0, sizes > 28)


def test_distinct_rows_ignore_what_is_not_expressed(tiny_space: MobileNetSpace) -> None:
    problem = SearchProblem(tiny_space, accuracy=Slow())
    smallest = np.zeros((1, len(tiny_space.genes)), dtype=np.int64)
    silent = smallest.copy()
    names = [gene.name for gene in tiny_space.genes]
    silent[0, names.index("kernel_size.0.1")] = 1
    loud = smallest.copy()
    loud[0, names.index("kernel_size.0.0")] = 1
    rows = np.concatenate([smallest, silent, loud, smallest])
    assert problem.distinct(rows).tolist() == [0, 2]


def test_exact_costs(tiny_space: MobileNetSpace) -> None:
    problem = SearchProblem(tiny_space, accuracy=Slow(), limits=Limits(max_macs=1.0))
    row = tiny_space.indices([tiny_space.largest()])
    values, violations = problem.score(row)
    macs = cost.macs(tiny_space.largest(), space=tiny_space)
    assert values[0, 1] == macs
    assert violations[0] == macs - 1
