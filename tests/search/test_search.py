from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError, ConfigError, InfeasibleConstraintError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.search.best import walk_to_best
from ofa_compile.search.config import EvolutionConfig, WalkConfig
from ofa_compile.search.front import evolve_front
from ofa_compile.search.pareto import hypervolume, non_dominated_mask
from ofa_compile.search.problem import SearchProblem
from ofa_compile.search.reach import lowest
from ofa_compile.search.search import search
from ofa_compile.space import cost
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space

QUICK = EvolutionConfig(
    population=64, generations=4, sweep_size=8, num_pairs=16, max_evaluations=2600
)
QUICK_BEST = WalkConfig(start_size=64, walks=4, num_pairs=16, num_triples=0, max_evaluations=1300)
FAST = {"config": QUICK, "best_config": QUICK_BEST}


@pytest.fixture(scope="module")
def truth(tiny_space, all_rows, accuracy):  # type: ignore[no-untyped-def]
    """Accuracy and costs of every architecture of the tiny space."""
    return accuracy.predict_indices(tiny_space, all_rows), CostTables(tiny_space).costs(all_rows)


def test_the_tiny_space_is_enumerated(tiny_space: MobileNetSpace, all_rows: np.ndarray) -> None:
    assert len(all_rows) == tiny_space.size() == 16_000


@pytest.mark.parametrize("seed", range(3))
def test_front_equals_the_true_front(tiny_space, accuracy, truth, seed) -> None:  # type: ignore[no-untyped-def]
    result = search(tiny_space, accuracy=accuracy, seed=seed, **FAST)
    scores, costs = truth
    points = np.stack([-scores, costs.macs], axis=1)
    corner = points.max(axis=0)
    found = np.array([[-item.accuracy, item.macs] for item in result.front])
    ratio = hypervolume(found, corner) / hypervolume(points[non_dominated_mask(points)], corner)
    assert 0.999 <= ratio <= 1.0 + 1e-12
    assert result.best.accuracy == pytest.approx(scores.max())
    assert result.num_evaluated < len(scores) / 4


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_best_under_several_limits_is_the_true_best(tiny_space, accuracy, truth, share) -> None:  # type: ignore[no-untyped-def]
    scores, costs = truth
    limits = {
        "max_macs": float(np.quantile(costs.macs, share)),
        "max_size_bytes": float(np.quantile(costs.size_bytes, share)),
        "max_activation_bytes": float(np.quantile(costs.activation_bytes, share)),
    }
    feasible = (
        (costs.macs <= limits["max_macs"])
        & (costs.size_bytes <= limits["max_size_bytes"])
        & (costs.activation_bytes <= limits["max_activation_bytes"])
    )
    result = search(tiny_space, accuracy=accuracy, **FAST, **limits)
    assert result.best.accuracy == pytest.approx(scores[feasible].max())
    for item in result.front:
        assert item.macs <= limits["max_macs"]
        assert item.size_bytes <= limits["max_size_bytes"]
        assert item.activation_bytes <= limits["max_activation_bytes"]


def test_result_is_consistent(tiny_space: MobileNetSpace, accuracy: object) -> None:
    latency = _Macs(tiny_space)
    result = search(tiny_space, accuracy=accuracy, latency=latency, **FAST, front_size=20)  # type: ignore[arg-type]
    assert result.cost_name == "latency_ms"
    assert 3 <= len(result.front) <= 20
    assert result.best is result.front[-1]
    assert result.knee in result.front
    times = [item.latency_ms or 0 for item in result.front]
    assert times == sorted(times)
    accuracies = [item.accuracy for item in result.front]
    assert accuracies == sorted(accuracies)
    for item in result.front:
        tiny_space.validate(item.architecture)
        assert item.latency_kind == "estimate"
        assert item.macs == cost.macs(item.architecture, space=tiny_space)
        assert item.size_bytes == cost.weight_bytes(item.architecture, space=tiny_space)
        peak = cost.activation_peak_bytes(item.architecture, space=tiny_space)
        assert item.activation_bytes == peak
    document = json.loads(json.dumps(result.best.to_dict()))
    assert Architecture.from_dict(document["architecture"]) == result.best.architecture


def test_same_seed_same_result(tiny_space: MobileNetSpace, accuracy: object) -> None:
    first, second = (
        search(tiny_space, accuracy=accuracy, seed=7, **FAST)
        for _ in range(2)  # type: ignore[arg-type]
    )
    assert first.front == second.front
    assert first.num_evaluated == second.num_evaluated


def test_fixed_resolution(tiny_space: MobileNetSpace, accuracy: object) -> None:
    result = search(tiny_space, accuracy=accuracy, resolution=24, **FAST)  # type: ignore[arg-type]
    assert {item.architecture.resolution for item in result.front} == {24}
    with pytest.raises(ArchitectureError, match="resolution 48"):
        search(tiny_space, accuracy=accuracy, resolution=48)  # type: ignore[arg-type]


def test_progress_is_reported(tiny_space: MobileNetSpace, accuracy: object) -> None:
    calls: list[tuple[int, int]] = []
    search(
        tiny_space,
        accuracy=accuracy,  # type: ignore[arg-type]
        **FAST,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(n, 4) for n in range(1, 5)]


class _Macs:
    """A latency that is proportional to the MACs."""

    kind = "estimate"

    def __init__(self, space: MobileNetSpace) -> None:
        self.tables = CostTables(space)

    def predict_indices(self, space: MobileNetSpace, indices: np.ndarray) -> np.ndarray:
        return self.tables.figure("macs", indices) / 1e6

    def predict(self, architectures: object) -> np.ndarray:
        raise AssertionError("the fast way exists")


@pytest.mark.parametrize(
    "limit", ["max_latency_ms", "max_macs", "max_size_bytes", "max_activation_bytes"]
)
def test_infeasible_limits_name_the_least_value(
    tiny_space: MobileNetSpace, accuracy: object, truth: object, limit: str
) -> None:
    _, costs = truth  # type: ignore[misc]
    least = {
        "max_latency_ms": costs.macs.min() / 1e6,
        "max_macs": costs.macs.min(),
        "max_size_bytes": costs.size_bytes.min(),
        "max_activation_bytes": costs.activation_bytes.min(),
    }[limit]
    options = {limit: least * 0.99}
    latency = _Macs(tiny_space)
    with pytest.raises(InfeasibleConstraintError, match=f"{limit} = ") as caught:
        search(tiny_space, accuracy=accuracy, latency=latency, **options)  # type: ignore[arg-type]
    found = re.search(r"least reachable is ([\d.,]+)", str(caught.value))
    assert found is not None
    assert float(found[1].replace(",", "")) == pytest.approx(least, rel=1e-3)
    assert '"space":"tiny"' in (caught.value.hint or "")


def test_limits_that_exclude_each_other(
    tiny_space: MobileNetSpace, accuracy: object, truth: object
) -> None:
    _, costs = truth  # type: ignore[misc]

    class Inverse(_Macs):
        """Slowest where there is least to compute: cannot go with a limit on MACs."""

        def predict_indices(self, space: MobileNetSpace, indices: np.ndarray) -> np.ndarray:
            return 1e9 / self.tables.figure("macs", indices)

    with pytest.raises(InfeasibleConstraintError, match="all limits at once") as caught:
        search(
            tiny_space,
            accuracy=accuracy,  # type: ignore[arg-type]
            latency=Inverse(tiny_space),
            max_latency_ms=1.5e9 / costs.macs.max(),
            max_macs=1.5 * costs.macs.min(),
            **FAST,
        )
    assert "(exceeded)" in str(caught.value)


def test_bad_limits_are_refused(tiny_space: MobileNetSpace, accuracy: object) -> None:
    with pytest.raises(ConfigError, match="positive"):
        search(tiny_space, accuracy=accuracy, max_macs=-1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="latency predictor or estimator"):
        search(tiny_space, accuracy=accuracy, max_latency_ms=1.0)  # type: ignore[arg-type]


def test_lowest_finds_the_minimum(tiny_space, accuracy, truth) -> None:  # type: ignore[no-untyped-def]
    _, costs = truth
    problem = SearchProblem(tiny_space, accuracy=accuracy)
    assert lowest(problem, "macs")[1] == costs.macs.min()
    assert lowest(problem, "activation_bytes")[1] == costs.activation_bytes.min()


def test_evolution_beats_random_sampling_at_equal_evaluations(toy_accuracy) -> None:  # type: ignore[no-untyped-def]
    space = search_space("ofa_mbv3_d234_e346_k357_w1.0")
    latency = LatencyEstimator(load_target("x86-64"))
    problem = SearchProblem(space, accuracy=toy_accuracy(space), latency=latency)
    front = evolve_front(problem, np.random.default_rng(0), QUICK)
    rows = space.sample_indices(np.random.default_rng(1), problem.num_evaluated)
    points, _ = problem.score(rows)
    corner = points.max(axis=0)
    random_volume = hypervolume(points[non_dominated_mask(points)], corner)
    assert hypervolume(front.objectives, corner) > 1.2 * random_volume


def test_search_imports_neither_torch_nor_tvm() -> None:
    code = (
        "import sys, ofa_compile.search.search;"
        "assert not {'torch', 'tvm', 'xgboost'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_search_ends_when_walks_find_nothing_more(tiny_space, accuracy, truth) -> None:  # type: ignore[no-untyped-def]
    problem = SearchProblem(tiny_space, accuracy=accuracy)
    best = walk_to_best(problem, np.random.default_rng(0), WalkConfig(walks=4, patience=8))
    assert -best.values[0, 0] == pytest.approx(truth[0].max())
    assert problem.num_evaluated < WalkConfig().max_evaluations / 4


def test_without_a_feasible_member_the_least_violating_is_returned(tiny_space, accuracy) -> None:  # type: ignore[no-untyped-def]
    from ofa_compile.search.constraints import Limits

    problem = SearchProblem(tiny_space, accuracy=accuracy, limits=Limits(max_macs=1.0))
    best = walk_to_best(problem, np.random.default_rng(0), QUICK_BEST)
    assert best.violations[0] > 0
    _, violations = problem.score(problem.sample(np.random.default_rng(1), 500))
    assert best.violations[0] <= violations.min()


def test_what_is_known_is_not_lost(tiny_space, accuracy, truth) -> None:  # type: ignore[no-untyped-def]
    scores, _ = truth
    problem = SearchProblem(tiny_space, accuracy=accuracy)
    tiny = WalkConfig(start_size=4, walks=1, max_evaluations=1)
    known = walk_to_best(problem, np.random.default_rng(0), QUICK_BEST)
    assert -known.values[0, 0] == pytest.approx(scores.max())
    best = walk_to_best(problem, np.random.default_rng(1), tiny, known=known)
    assert best.values[0, 0] == known.values[0, 0]
