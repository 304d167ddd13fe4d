"""The joint search: accuracy predictor times latency predictor, under limits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_compile.errors import ConfigError, InfeasibleConstraintError
from ofa_compile.search.constraints import Limits, format_figure, option_name
from ofa_compile.search.evolution import (
    EvolutionConfig,
    Progress,
    Scored,
    descend,
    evolve_best,
    evolve_front,
    lowest,
)
from ofa_compile.search.pareto import knee_index, non_dominated_mask, thin_front
from ofa_compile.search.problem import Indices, LatencyKind, Predictor, SearchProblem
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

# Half of a large population has children: the paper's 100 members and quarter spread over 0.5
# points between seeds with the authors' w1.2 accuracy predictor, this over 0.15.
_BEST_CONFIG = EvolutionConfig(population=512, generations=70, parent_share=0.5, max_sweeps=8)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An architecture with what was predicted for it.

    Attributes
    ----------
    architecture
        The subnet.
    accuracy
        Predicted top-1 fraction.
    latency_ms, latency_kind
        Predicted from measurements, or estimated; None without a latency predictor.
    macs, size_bytes, activation_bytes
        Exact, from the architecture.
    """

    architecture: Architecture
    accuracy: float
    latency_ms: float | None
    latency_kind: LatencyKind | None
    macs: int
    size_bytes: int
    activation_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as JSON values."""
        return {
            "architecture": self.architecture.to_dict(),
            "accuracy": self.accuracy,
            "latency_ms": self.latency_ms,
            "latency_kind": self.latency_kind,
            "macs": self.macs,
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
        The figure that the front trades accuracy against.
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
    latency: Predictor | None = None,
    max_latency_ms: float | None = None,
    max_macs: float | None = None,
    max_size_bytes: float | None = None,
    max_activation_bytes: float | None = None,
    resolution: int | None = None,
    seed: int = 0,
    front_size: int = 400,
    config: EvolutionConfig | None = None,
    best_config: EvolutionConfig | None = None,
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
        accuracy against the one limited figure, else against MACs.
    max_latency_ms, max_macs, max_size_bytes, max_activation_bytes
        Upper limits, in any combination.
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
        max_size_bytes=max_size_bytes,
        max_activation_bytes=max_activation_bytes,
    )
    if max_latency_ms is not None and latency is None:
        msg = "max_latency_ms needs a latency predictor or estimator, and there is none"
        raise ConfigError(msg, hint="pass latency=..., or limit MACs instead")
    problem = SearchProblem(
        space, accuracy=accuracy, latency=latency, limits=limits, resolution=resolution
    )
    rng = np.random.default_rng(seed)
    _check_feasible(problem)
    archive = evolve_front(problem, rng, config, progress)
    # On its own, not from the front: two searches seldom end in the same local optimum.
    best = evolve_best(problem, rng, best_config or _BEST_CONFIG)
    archive = archive.join(best.take(best.violations == 0))
    if not len(archive):
        raise _no_joint_solution(problem)
    return _result(problem, archive, front_size, started)


def _check_feasible(problem: SearchProblem) -> None:
    """Compare each limit with the least value that the space can reach."""
    for figure, bound in problem.limits.active.items():
        genotype, least = lowest(problem, figure)
        if least > bound:
            nearest = problem.architectures(genotype)[0].to_json()
            msg = (
                f"no architecture of {problem.space.name} meets {option_name(figure)} = "
                f"{format_figure(figure, bound)}; the least reachable is "
                f"{format_figure(figure, least)}"
            )
            raise InfeasibleConstraintError(msg, hint=f"it is reached by {nearest}")


def _no_joint_solution(problem: SearchProblem) -> InfeasibleConstraintError:
    """Describe the architecture that comes nearest to meeting all limits at once."""

    def violation(genotypes: Indices) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = problem.space.mark_absent(genotypes)
        figures = {name: problem.figure(name, rows) for name in problem.limits.active}
        return problem.limits.violation(figures)

    genotype, _ = descend(problem, problem.uniform_rows(), violation)
    row = problem.space.mark_absent(genotype)
    parts = []
    for figure, bound in problem.limits.active.items():
        value = float(problem.figure(figure, row)[0])
        verdict = "met" if value <= bound else "exceeded"
        parts.append(f"{option_name(figure)}: {format_figure(figure, value)} ({verdict})")
    nearest = problem.architectures(row)[0].to_json()
    msg = (
        f"no architecture of {problem.space.name} was found that meets all limits at once; "
        f"the nearest one has {', '.join(parts)}"
    )
    return InfeasibleConstraintError(msg, hint=f"it is {nearest}")


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
    costs = problem.costs.costs(indices)
    accuracy = problem.figure("accuracy", indices)
    latency: list[float | None] = [None] * len(indices)
    if problem.latency is not None:
        latency = problem.figure("latency_ms", indices).tolist()
    return [
        Candidate(
            architecture=architecture,
            accuracy=float(accuracy[row]),
            latency_ms=latency[row],
            latency_kind=problem.latency_kind,
            macs=int(costs.macs[row]),
            size_bytes=int(costs.size_bytes[row]),
            activation_bytes=int(costs.activation_bytes[row]),
        )
        for row, architecture in enumerate(problem.architectures(indices))
    ]
