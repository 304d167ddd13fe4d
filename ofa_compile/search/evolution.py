"""Evolution on arrays of choice indices: the Pareto front (NSGA-II) and the best under limits.

Both end with a local search over the neighbours of what they found, which removes most of the
luck of the draw. Genotypes are complete: genes of absent blocks are kept and mutate silently, so a
stage that grows again gets blocks that have been there before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.pareto import (
    crowding_distance,
    non_dominated_mask,
    non_dominated_sort,
    thin_front,
)
from ofa_compile.search.problem import Indices, SearchProblem, distinct_rows, neighbours

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

# Mates stand at most this many places apart in the order of cost: crossing a tiny with a huge
# architecture gives one that is neither.
_MATE_RANGE = 16
_MAX_CHANGES = 5


@dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """Sizes and rates of a search.

    Attributes
    ----------
    population, generations
        Survivors per generation, and how many generations.
    mutation_probability
        Constrained search only: chance of each gene to be redrawn (0.1 in the paper).
    mutation_share
        Share of children that have one parent; the others mix two.
    parent_share
        Constrained search only: share of the population that has children (0.25 in the paper).
    polish_size
        Points of the front whose neighbours are tried in each sweep of the local search.
    max_sweeps
        Most sweeps of the local search.
    """

    population: int = 256
    generations: int = 80
    mutation_probability: float = 0.1
    mutation_share: float = 0.5
    parent_share: float = 0.25
    polish_size: int = 64
    max_sweeps: int = 12


PAPER_CONFIG = EvolutionConfig(population=100, generations=500, max_sweeps=0)


@dataclass
class Scored:
    """Genotypes with their objectives, of shape (n, 2), and violations, of shape (n,)."""

    genotypes: Indices
    objectives: NDArray[np.float64]
    violations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.genotypes)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Scored:
        """Return some of the members."""
        return Scored(self.genotypes[rows], self.objectives[rows], self.violations[rows])

    def join(self, other: Scored) -> Scored:
        """Return the members of both."""
        return Scored(
            np.concatenate([self.genotypes, other.genotypes]),
            np.concatenate([self.objectives, other.objectives]),
            np.concatenate([self.violations, other.violations]),
        )


def evolve_front(
    problem: SearchProblem,
    rng: np.random.Generator,
    config: EvolutionConfig | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Search for the Pareto front of accuracy and cost among feasible architectures.

    Returns
    -------
    All non-dominated feasible members that were seen; empty if none was feasible.
    """
    config = config or EvolutionConfig()
    fresh = max(1, config.population)
    start = np.concatenate([problem.uniform_rows(), problem.sample(rng, fresh)])
    population = _survivors(problem, _score(problem, start), config.population)
    archive = _front(problem, population)
    for generation in range(config.generations):
        children = _score(problem, _children(problem, population, rng, config))
        archive = _front(problem, archive.join(children))
        population = _survivors(problem, population.join(children), config.population)
        if progress is not None:
            progress(generation + 1, config.generations)
    return _polish_front(problem, archive, config)


def evolve_best(
    problem: SearchProblem,
    rng: np.random.Generator,
    config: EvolutionConfig = PAPER_CONFIG,
    *,
    start: Indices | None = None,
) -> Scored:
    """Search for the most accurate architecture within the limits, as the paper does.

    Parameters
    ----------
    problem, rng, config
        What to search, with what randomness, and how long.
    start
        Genotypes to begin with; random ones fill up the population.

    Returns
    -------
    The best member alone; the least violating one if none is feasible.
    """
    rows = problem.sample(rng, config.population)
    if start is not None:
        rows = np.concatenate([start, rows])[: max(config.population, len(start))]
    population = _best_first(problem, _score(problem, rows))
    num_parents = max(2, round(config.parent_share * config.population))
    for _ in range(config.generations):
        parents = population.take(np.arange(min(num_parents, len(population))))
        pool = parents.genotypes
        first = pool[rng.integers(0, len(pool), config.population)]
        second = pool[rng.integers(0, len(pool), config.population)]
        children = _score(problem, _vary(problem, first, second, rng, config))
        population = _best_first(problem, parents.join(children))
        population = population.take(np.arange(min(config.population, len(population))))
    return _climb(problem, population.take(np.arange(1)), config.max_sweeps)


def lowest(problem: SearchProblem, figure: str) -> tuple[Indices, float]:
    """Return the genotype with the least value of a figure, by descent from the smallest.

    One gene is changed at a time until no change helps. For figures that sum over blocks this is
    the minimum; for predicted ones it is as good as any and takes milliseconds.
    """
    start = np.zeros((1, len(problem.choice_counts)), dtype=np.int64)
    rows = np.repeat(start, len(problem.resolution_choices), axis=0)
    rows[:, 0] = problem.resolution_choices
    return descend(problem, rows, lambda genotypes: _figure(problem, figure, genotypes))


def descend(
    problem: SearchProblem, rows: Indices, value_of: Callable[[Indices], NDArray[np.float64]]
) -> tuple[Indices, float]:
    """Return the genotype, of shape (1, genes), and the value where descent from `rows` ends."""
    values = value_of(rows)
    best, value = rows[[np.argmin(values)]], float(values.min())
    while True:
        moves = neighbours(problem, best)
        values = value_of(moves)
        if not len(moves) or values.min() >= value:
            return best, value
        best, value = moves[[np.argmin(values)]], float(values.min())


def _figure(problem: SearchProblem, figure: str, genotypes: Indices) -> NDArray[np.float64]:
    """Return a figure of genotypes."""
    return problem.figure(figure, problem.space.mark_absent(genotypes))


def _score(problem: SearchProblem, genotypes: Indices) -> Scored:
    """Score genotypes by the architectures they express."""
    objectives, violations = problem.score(problem.space.mark_absent(genotypes))
    return Scored(genotypes, objectives, violations)


def _children(
    problem: SearchProblem, population: Scored, rng: np.random.Generator, config: EvolutionConfig
) -> Indices:
    """Let winners of tournaments have children, alone or with a mate of about the same cost."""
    count, size = config.population, len(population)
    # Survivors come best first, so the lower position wins a tournament.
    first = rng.integers(0, size, (2, count)).min(axis=0)
    by_cost = np.argsort(population.objectives[:, 1], kind="stable")
    place = np.empty(size, dtype=np.int64)
    place[by_cost] = np.arange(size)
    offset = rng.integers(-_MATE_RANGE, _MATE_RANGE + 1, count)
    second = by_cost[np.clip(place[first] + offset, 0, size - 1)]
    mixed = _mix(population.genotypes[first], population.genotypes[second], rng, config)
    # A few genes at a time, up to five: single changes are what the local search tries anyway.
    num_changes = rng.integers(1, _MAX_CHANGES + 1, (count, 1))
    order = np.argsort(np.argsort(rng.random(mixed.shape), axis=1), axis=1)
    return np.where(order < num_changes, problem.sample(rng, count), mixed)


def _mix(
    first: Indices, second: Indices, rng: np.random.Generator, config: EvolutionConfig
) -> Indices:
    """Take each gene from either parent, or all from the first for the mutated share."""
    is_mixed = rng.random((len(first), 1)) >= config.mutation_share
    return np.where(is_mixed & (rng.random(first.shape) < 0.5), second, first)


def _vary(
    problem: SearchProblem,
    first: Indices,
    second: Indices,
    rng: np.random.Generator,
    config: EvolutionConfig,
) -> Indices:
    """Make children as the paper does: either mutated copies, or mixes of two parents."""
    is_copy = rng.random((len(first), 1)) < config.mutation_share
    takes_second = ~is_copy & (rng.random(first.shape) < 0.5)
    is_redrawn = is_copy & (rng.random(first.shape) < config.mutation_probability)
    mixed = np.where(takes_second, second, first)
    return np.where(is_redrawn, problem.sample(rng, len(first)), mixed)


def _survivors(problem: SearchProblem, members: Scored, count: int) -> Scored:
    """Keep the best by rank, then by distance to their neighbours; infeasible ones come last."""
    members = members.take(distinct_rows(problem, members.genotypes))
    feasible = members.violations == 0
    ranks = np.empty(len(members), dtype=np.int64)
    if feasible.any():
        ranks[feasible] = non_dominated_sort(members.objectives[feasible])
    base = int(ranks[feasible].max(initial=-1)) + 1
    ranks[~feasible] = base + np.argsort(np.argsort(members.violations[~feasible]))
    distance = crowding_distance(members.objectives, ranks)
    return members.take(np.lexsort((-distance, ranks))[:count])


def _front(problem: SearchProblem, members: Scored) -> Scored:
    """Return the feasible members that nothing dominates, one of equal architectures each."""
    members = members.take(members.violations == 0)
    if not len(members):
        return members
    members = members.take(non_dominated_mask(members.objectives))
    return members.take(distinct_rows(problem, members.genotypes))


def _polish_front(problem: SearchProblem, archive: Scored, config: EvolutionConfig) -> Scored:
    """Try all neighbours of points spread over the front until a sweep brings nothing new."""
    tried: set[bytes] = set()
    for sweep in range(config.max_sweeps):
        untried = np.array([row.tobytes() not in tried for row in archive.genotypes], dtype=bool)
        if not untried.any():
            break
        candidates = archive.take(untried)
        chosen = candidates.take(thin_front(candidates.objectives, config.polish_size))
        tried.update(row.tobytes() for row in chosen.genotypes)
        moves = neighbours(problem, chosen.genotypes)
        moves = moves[distinct_rows(problem, moves)]
        archive = _front(problem, archive.join(_score(problem, moves)))
        logger.debug("sweep %d: %d points on the front", sweep, len(archive))
    return archive


def _best_first(problem: SearchProblem, members: Scored) -> Scored:
    """Sort by violation, then by accuracy, then by cost; equal architectures are dropped."""
    members = members.take(distinct_rows(problem, members.genotypes))
    accuracy, cost = members.objectives.T
    return members.take(np.lexsort((cost, accuracy, members.violations)))


def _climb(problem: SearchProblem, best: Scored, max_sweeps: int) -> Scored:
    """Move to the best architecture within two changes until there is no better one."""
    for _ in range(max_sweeps):
        single = neighbours(problem, best.genotypes)
        moves = np.concatenate([single, _pairs(single, best.genotypes[0])])
        found = _best_first(problem, best.join(_score(problem, moves))).take(np.arange(1))
        if np.array_equal(found.genotypes, best.genotypes):
            break
        best = found
    return best


def _pairs(moves: Indices, origin: Indices) -> Indices:
    """Combine moves of one gene each into moves of two genes, of shape (pairs, genes)."""
    gene = (moves != origin).argmax(axis=1)
    first, second = np.triu_indices(len(moves), k=1)
    differ = gene[first] != gene[second]
    first, second = first[differ], second[differ]
    rows: Indices = moves[first].copy()
    rows[np.arange(len(rows)), gene[second]] = moves[second, gene[second]]
    return rows
