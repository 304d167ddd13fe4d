"""The Pareto front: NSGA-II on arrays of choice indices, then a local search.

It begins on the front of an additive model, evolves for a while, and ends by combining changes
around what was found; that last part removes most of the luck of the draw. Genotypes are
complete: genes of absent blocks are kept and mutate silently.
"""

from __future__ import annotations

import logging

import numpy as np

from ofa_compile.search.config import VIOLATION_PENALTY, EvolutionConfig, Progress
from ofa_compile.search.moves import Array, Merit, Moves
from ofa_compile.search.pareto import crowding_distance, non_dominated_sort, thin_front
from ofa_compile.search.population import Scored, feasible_front, score
from ofa_compile.search.problem import Indices, SearchProblem
from ofa_compile.search.start import additive_front

logger = logging.getLogger(__name__)

# Mates stand at most this many places apart in the order of cost: crossing a tiny with a huge
# architecture gives one that is neither.
_MATE_RANGE = 16
_MAX_CHANGES = 5


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
    informed = additive_front(problem, rng, config.population)
    start = [problem.uniform_rows(), problem.sample(rng, config.population), informed]
    scored = score(problem, np.concatenate(start))
    archive = feasible_front(problem, scored)
    population = _survivors(problem, scored, config.population)
    for generation in range(config.generations):
        children = score(problem, _children(problem, population, rng, config))
        archive = feasible_front(problem, archive.join(children))
        population = _survivors(problem, population.join(children), config.population)
        if progress is not None:
            progress(generation + 1, config.generations)
    return _sweep_front(problem, archive, population, config)


def _sweep_front(
    problem: SearchProblem, archive: Scored, population: Scored, config: EvolutionConfig
) -> Scored:
    """Try the changes of members on or just behind the front until evaluations run out."""
    moves = Moves(problem)
    tried = np.empty(0, dtype=np.uint64)
    known = problem.keys(archive.genotypes)
    num_idle = 0
    while config.sweep_size and len(archive) and problem.num_evaluated < config.max_evaluations:
        pool = population.take(~np.isin(problem.keys(population.genotypes), tried))
        if not len(pool):
            break
        # Survivors come best first; twice as many as needed let the choice be an even one.
        pool = pool.take(slice(2 * config.sweep_size))
        parents = pool.take(thin_front(pool.objectives, config.sweep_size))
        tried = np.concatenate([tried, problem.keys(parents.genotypes)])
        owner, move, rows = moves.apply(parents.genotypes)
        singles = score(problem, rows)
        archive = feasible_front(problem, archive.join(singles))
        merit = _front_merit(problem, archive)
        _, pairs = moves.combine(parents, owner, move, singles, merit, config.num_pairs)
        several = score(problem, pairs)
        archive = feasible_front(problem, archive.join(several))
        population = _survivors(problem, population.join(singles, several), config.population)
        found = problem.keys(archive.genotypes)
        num_idle = num_idle + 1 if np.isin(found, known).all() else 0
        if num_idle == config.patience:
            break
        known = found
    logger.debug("%d points, %d evaluations", len(archive), problem.num_evaluated)
    return archive


def _front_merit(problem: SearchProblem, archive: Scored) -> Merit:
    """Return how far values lie behind a front: negative where they would move it."""
    order = np.argsort(archive.objectives[:, 1])
    best, cost = archive.objectives[order].T

    def merit(values: Array) -> Array:
        place = np.searchsorted(cost, values[:, 1], side="right") - 1
        # Cheaper than all of the front is a point of it, whatever its accuracy.
        behind = np.where(place >= 0, values[:, 0] - best[np.maximum(place, 0)], 0.0)
        return behind + VIOLATION_PENALTY * problem.violation(values)

    return merit


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


def _survivors(problem: SearchProblem, members: Scored, count: int) -> Scored:
    """Keep the best by rank, then by distance to their neighbours; infeasible ones come last."""
    members = members.take(problem.distinct(members.genotypes))
    feasible = members.violations == 0
    ranks = np.empty(len(members), dtype=np.int64)
    if feasible.any():
        ranks[feasible] = non_dominated_sort(members.objectives[feasible], count)
    base = int(ranks[feasible].max(initial=-1)) + 1
    ranks[~feasible] = base + np.argsort(np.argsort(members.violations[~feasible]))
    distance = crowding_distance(members.objectives, ranks)
    return members.take(np.lexsort((-distance, ranks))[:count])
