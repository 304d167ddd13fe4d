"""The joint search: accuracy predictor times latency predictor, under limits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ofa_compile.search.best import walk_to_best
from ofa_compile.search.config import (
    BEST_CONFIG,
    UNLIMITED_CONFIG,
    EvolutionConfig,
    Progress,
    WalkConfig,
)
from ofa_compile.search.constraints import LATENCY, Limits
from ofa_compile.search.front import evolve_front
from ofa_compile.search.pareto import knee_index, non_dominated_mask, thin_front
from ofa_compile.search.population import Scored
from ofa_compile.search.problem import Indices, LatencyKind, Predictor, SearchProblem
from ofa_compile.search.reach import check_feasible, no_joint_solution
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What is known about an architecture's latency on one target.

    Attributes
    ----------
    ms, kind
        Predicted from measurements, or estimated.
    relative_std
        Standard deviation to expect of it, as a fraction; None if the predictor does not say.
    statistic
        What is predicted of single runs: "median" or "p95".
    batch
        Images of one run.
    """

    ms: float
    kind: LatencyKind
    relative_std: float | None = None
    statistic: str = "median"
    batch: int = 1

    @property
    def images_per_s(self) -> float:
        """Throughput of runs one after the other."""
        return 1e3 * self.batch / self.ms

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "images_per_s": self.images_per_s}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture with what was predicted for it.

    Attributes
    ----------
    architecture
        The subnet.
    accuracy, accuracy_std
        Predicted top-1 fraction, and how far the predictor's members differ; None if it has one.
    latencies
        By target; the name is empty where the only predictor was given without one.
    macs, num_parameters, size_bytes, activation_bytes
        Exact, from the architecture.
    """

    architecture: Architecture
    accuracy: float
    accuracy_std: float | None = None
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    macs: int
    num_parameters: int
    size_bytes: int
    activation_bytes: int

    @property
    def latency(self) -> Latency | None:
        """The latency on the first target, which the front is drawn for."""
        return next(iter(self.latencies.values()), None)

    @property
    def latency_ms(self) -> float | None:
        """Milliseconds on the first target."""
        return None if self.latency is None else self.latency.ms

    @property
    def latency_kind(self) -> LatencyKind | None:
        """What those are."""
        return None if self.latency is None else self.latency.kind

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as JSON values."""
        return {
            "architecture": self.architecture.to_dict(),
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "latency_ms": self.latency_ms,
            "latency_kind": self.latency_kind,
            "latencies": {name: latency.to_dict() for name, latency in self.latencies.items()},
            "macs": self.macs,
            "num_parameters": self.num_parameters,
            "size_bytes": self.size_bytes,
            "activation_bytes": self.activation_bytes,
        }


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes
    ----------
    front
        Non-dominated feasible candidates, from the cheapest to the most accurate.
    best
        The most accurate feasible candidate.
    knee
        The candidate of the front with the best trade.
    cost_name
        The figure that the front trades accuracy against; "latency_ms@NAME" is that of a target.
    num_evaluated, seconds
        Architectures scored, and how long everything took.
    """

    front: list[Candidate]
    best: Candidate
    knee: Candidate
    cost_name: str
    num_evaluated: int
    seconds: float


def search(
    space: SearchSpace,
    *,
    accuracy: Predictor,
    latency: Predictor | Mapping[str, Predictor] | None = None,
    max_latency_ms: float | Mapping[str, float] | None = None,
    max_macs: float | None = None,
    max_parameters: float | None = None,
    max_size_bytes: float | None = None,
    max_activation_bytes: float | None = None,
    resolution: int | None = None,
    seed: int = 0,
    front_size: int = 400,
    config: EvolutionConfig | None = None,
    best_config: WalkConfig | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the Pareto front of a space, and its best member, under any limits.

    Parameters
    ----------
    space
        The search space.
    accuracy
        Predictor of the top-1 fraction.
    latency
        Predictor (from measurements) or estimator of milliseconds. Without it the front trades
        accuracy against the one limited figure, else against MACs. Several targets: a predictor
        for each, by name; the front is drawn for the first.
    max_latency_ms, max_macs, max_parameters, max_size_bytes, max_activation_bytes
        Upper limits, in any combination; that on latency by name for several targets.
    resolution
        Search at this resolution only.
    seed
        The same seed gives the same result.
    front_size
        Most points of the front to return, spread evenly over it.
    config, best_config
        Sizes and rates of the search for the front, and of that for the best under the limits.
    progress
        Called with finished and total generations.

    Raises
    ------
    InfeasibleConstraintError
        If no architecture meets the limits; the message names the best value reachable.
    ArchitectureError
        If space and predictors have no resolution in common.
    ConfigError
        If a limit is not positive, or limits latency without a latency predictor.
    """
    started = time.monotonic()
    limits = Limits(
        max_latency_ms=max_latency_ms,
        max_macs=max_macs,
        max_parameters=max_parameters,
        max_size_bytes=max_size_bytes,
        max_activation_bytes=max_activation_bytes,
    )
    problem = SearchProblem(
        space, accuracy=accuracy, latency=latency, limits=limits, resolution=resolution
    )
    rng = np.random.default_rng(seed)
    check_feasible(problem)
    archive = evolve_front(problem, rng, config, progress)
    # By itself at first, not from the front: two searches seldom end in the same local optimum.
    default = BEST_CONFIG if limits.active else UNLIMITED_CONFIG
    best = walk_to_best(problem, rng, best_config or default, known=archive)
    archive = archive.join(best.take(best.violations == 0))
    if not len(archive):
        raise no_joint_solution(problem)
    return _result(problem, archive, front_size, started)


def _result(
    problem: SearchProblem, archive: Scored, front_size: int, started: float
) -> SearchResult:
    """Sort, thin and describe the archive."""
    archive = archive.take(non_dominated_mask(archive.objectives))
    _, distinct = np.unique(archive.objectives, axis=0, return_index=True)
    archive = archive.take(distinct)
    # By cost, so that the front runs from the cheapest to the most accurate.
    kept = thin_front(archive.objectives[:, ::-1], front_size)
    archive = archive.take(kept)
    candidates = describe(problem, problem.space.mark_absent(archive.genotypes))
    return SearchResult(
        front=candidates,
        best=candidates[-1],
        knee=candidates[knee_index(archive.objectives)],
        cost_name=problem.cost_name,
        num_evaluated=problem.num_evaluated,
        seconds=time.monotonic() - started,
    )


def describe(problem: SearchProblem, indices: Indices) -> list[Candidate]:
    """Return a candidate for each row of choice indices."""
    architectures = problem.architectures(indices)
    costs = problem.costs.costs(indices)
    accuracy = problem.figure("accuracy", indices)
    spread = _uncertainty(problem.accuracy, architectures)
    latencies = {
        figure.removeprefix(LATENCY).removeprefix("@"): _latencies(
            problem, figure, architectures, indices
        )
        for figure in problem.latencies
    }
    return [
        Candidate(
            architecture=architecture,
            accuracy=float(accuracy[row]),
            accuracy_std=spread[row],
            latencies={name: column[row] for name, column in latencies.items()},
            macs=int(costs.macs[row]),
            num_parameters=int(costs.num_parameters[row]),
            size_bytes=int(costs.size_bytes[row]),
            activation_bytes=int(costs.activation_bytes[row]),
        )
        for row, architecture in enumerate(architectures)
    ]


def _latencies(
    problem: SearchProblem, figure: str, architectures: Sequence[Architecture], indices: Indices
) -> list[Latency]:
    """Return each architecture's latency on one target."""
    predictor = problem.latencies[figure]
    spread = _uncertainty(predictor, architectures)
    statistic = getattr(predictor, "statistic", "median")
    batch = getattr(predictor, "batch", 1)
    kind = problem.latency_kind(figure)
    return [
        Latency(ms=ms, kind=kind, relative_std=spread[row], statistic=statistic, batch=batch)
        for row, ms in enumerate(problem.figure(figure, indices).tolist())
    ]


def _uncertainty(
    predictor: Predictor, architectures: Sequence[Architecture]
) -> Sequence[float | None]:
    """Ask a predictor how sure it is; None for each architecture where it does not say."""
    ask = getattr(predictor, "uncertainty", None)
    if ask is None:
        return [None] * len(architectures)
    values: list[float] = np.asarray(ask(architectures), dtype=np.float64).tolist()
    return values
