"""The most accurate architecture within limits: evolution on islands, then a local search."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.config import BEST_CONFIG, VIOLATION_PENALTY, EvolutionConfig
from ofa_compile.search.moves import Array, Moves
from ofa_compile.search.population import Scored, score
from ofa_compile.search.problem import Indices, SearchProblem
from ofa_compile.search.start import additive_front

# Share of the evaluations that islands may use before they are joined.
_ISLAND_SHARE = 0.6
# Mixes and mutants of what is kept that each sweep tries as well, for each pair of changes.
_CHILDREN_PER_PAIR = 0.5


def evolve_best(
    problem: SearchProblem,
    rng: np.random.Generator,
    config: EvolutionConfig = BEST_CONFIG,
    known: Scored | None = None,
) -> Scored:
    """Search for the most accurate architecture within the limits.

    Parameters
    ----------
    problem, rng, config
        What to search, and how much.
    known
        What another search has found; it joins when the islands do.

    Returns
    -------
    The best member alone; the least violating one if none is feasible.
    """
    first = problem.num_evaluated
    begun = problem.uniform_rows()
    if config.informed_start:
        begun = np.concatenate([begun, additive_front(problem, rng, config.population)])
    share = _ISLAND_SHARE if config.islands > 1 else 1.0
    tried = np.empty(0, dtype=np.uint64)
    islands = []
    moves = Moves(problem)
    for number in range(config.islands):
        rows = problem.sample(rng, config.population)
        if config.informed_start:
            rows = np.concatenate([begun, rows])
        members = _evolve_island(problem, score(problem, rows), rng, config)
        budget = first + share * config.max_evaluations * (number + 1) / config.islands
        members, tried = _sweep_best(problem, moves, members, tried, rng, config, budget)
        islands.append(members.take(slice(config.population // config.islands + 1)))
    islands += [known] if known is not None else []
    members = _best_first(problem, islands[0].join(*islands[1:]))
    if config.islands > 1:
        budget = first + config.max_evaluations
        members, _ = _sweep_best(problem, moves, members, tried, rng, config, budget)
    strictly = np.lexsort((members.values[:, 1], members.values[:, 0], members.violations))
    return members.take(strictly[:1])


def _evolve_island(
    problem: SearchProblem, members: Scored, rng: np.random.Generator, config: EvolutionConfig
) -> Scored:
    """Evolve one population as the paper does: the best have children, alone or in pairs."""
    size = config.population
    num_parents = max(2, round(config.parent_share * size))
    population = _best_first(problem, members).take(slice(size))
    for _ in range(config.generations):
        parents = population.take(slice(num_parents))
        pool = parents.genotypes
        mates = pool[rng.integers(0, len(pool), (2, size))]
        children = score(problem, _vary(problem, mates[0], mates[1], rng, config))
        population = _best_first(problem, parents.join(children)).take(slice(size))
    return population


def _sweep_best(
    problem: SearchProblem,
    moves: Moves,
    members: Scored,
    tried: NDArray[np.uint64],
    rng: np.random.Generator,
    config: EvolutionConfig,
    budget: float,
) -> tuple[Scored, NDArray[np.uint64]]:
    """Try the changes of the best members not tried yet until evaluations run out.

    Every other sweep takes the best of each niche instead, and each has children of all members,
    the better the more: distant optima share good parts.
    """

    def merit(values: Array) -> Array:
        return values[:, 0] + VIOLATION_PENALTY * problem.violation(values)

    best, num_idle, takes_niches = np.inf, 0, False
    while config.sweep_size and problem.num_evaluated < budget:
        parents = members.take(~np.isin(problem.keys(members.genotypes), tried))
        if not len(parents):
            break
        places = _niche_places(problem, parents) if takes_niches else np.arange(len(parents))
        parents = parents.take(np.argsort(places, kind="stable")[: config.sweep_size])
        takes_niches = not takes_niches
        tried = np.concatenate([tried, problem.keys(parents.genotypes)])
        owner, move, rows = moves.apply(parents.genotypes)
        singles = score(problem, rows)
        sizes = (config.num_pairs, config.num_triples)
        rows = moves.combine(parents, owner, move, singles, merit, *sizes)
        pool = members.genotypes
        count = round(_CHILDREN_PER_PAIR * config.num_pairs * config.sweep_size)
        first, second = pool[(len(pool) * rng.random((2, count)) ** 2).astype(np.int64)]
        rows = np.concatenate([rows, _vary(problem, first, second, rng, config)])
        members = _best_first(problem, members.join(singles, score(problem, rows)))
        is_kept = np.arange(len(members)) < config.population
        members = members.take(is_kept | (_niche_places(problem, members) < config.sweep_size))
        least = float(merit(members.values[:1])[0])
        num_idle = 0 if least < best else num_idle + 1
        if num_idle == config.patience:
            break
        best = least
    return members, tried


def _niche_places(problem: SearchProblem, members: Scored) -> NDArray[np.int64]:
    """Return each member's place, from 0 on, among those of its resolution and total depth.

    Optima of different depths and resolutions lie many changes apart: the best alone would have
    all the local search, and whichever niche it happens to lie in win.
    """
    genes = problem.space.genes
    depths = [column for column, gene in enumerate(genes) if gene.name.startswith("depth.")]
    rows = members.genotypes
    niche = rows[:, 0] * (1 + problem.choice_counts[depths].sum()) + rows[:, depths].sum(axis=1)
    order = np.argsort(niche, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(niche[order]) != 0])
    sizes = np.diff(np.r_[starts, len(rows)])
    places = np.empty(len(rows), dtype=np.int64)
    places[order] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return places


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


def _best_first(problem: SearchProblem, members: Scored) -> Scored:
    """Sort by accuracy with violations held against it; equal architectures are dropped."""
    members = members.take(problem.distinct(members.genotypes))
    merit = members.values[:, 0] + VIOLATION_PENALTY * members.violations
    return members.take(np.lexsort((members.values[:, 1], merit)))
