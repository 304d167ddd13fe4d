"""Other ways to the best architecture under limits, for comparison only.

Each takes a `SearchProblem`, a random generator and a number of evaluations, and returns the best
feasible accuracy that it saw.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from ofa_compile.search.population import best_first, score
from ofa_compile.search.problem import SearchProblem

# Once-for-All's search: members, those that have children, and the chance of a gene to be redrawn.
_MEMBERS, _PARENTS, _MUTATION = 100, 25, 0.1
# Regularised evolution as Real et al. (2019) describe it, with their population and sample.
_POPULATION, _SAMPLE = 100, 25
_CHUNK = 5000


def random_search(problem: SearchProblem, rng: np.random.Generator, count: int) -> float:
    """Score random architectures."""
    best = np.inf
    for start in range(0, count, _CHUNK):
        values, violations = _score(problem, problem.sample(rng, min(_CHUNK, count - start)))
        best = min(best, values[violations == 0, 0].min(initial=np.inf))
    return -float(best)


def regularised_evolution(problem: SearchProblem, rng: np.random.Generator, count: int) -> float:
    """Let the best of a random sample have a mutated child, which replaces the oldest member.

    Under a tight limit this is at a local optimum, which one change cannot leave, after some
    thousand evaluations.
    """
    rows = problem.sample(rng, _POPULATION)
    values, violations = _score(problem, rows)
    best = values[violations == 0, 0].min(initial=np.inf)
    # Violations outweigh any accuracy, so that infeasible members lose every tournament.
    fitness = values[:, 0] + 10 * violations
    oldest = 0
    while problem.num_evaluated < count:
        entrants = rng.integers(0, _POPULATION, _SAMPLE)
        child = rows[entrants[fitness[entrants].argmin()], None].copy()
        gene = rng.integers(0, rows.shape[1])
        child[0, gene] = problem.sample(rng, 1)[0, gene]
        values, violations = _score(problem, child)
        if violations[0] == 0:
            best = min(best, values[0, 0])
        rows[oldest], fitness[oldest] = child[0], values[0, 0] + 10 * violations[0]
        oldest = (oldest + 1) % _POPULATION
    return -float(best)


def paper_evolution(problem: SearchProblem, rng: np.random.Generator, count: int) -> float:
    """Evolve as Once-for-All does: half of the children are mutants, half are mixes of parents."""
    population = best_first(problem, score(problem, problem.sample(rng, _MEMBERS)))
    while problem.num_evaluated + _MEMBERS <= count:
        parents = population.take(slice(_PARENTS))
        first, second = parents.genotypes[rng.integers(0, len(parents), (2, _MEMBERS))]
        is_mutant = np.arange(_MEMBERS)[:, None] % 2 == 0
        takes_second = ~is_mutant & (rng.random(first.shape) < 0.5)
        is_redrawn = is_mutant & (rng.random(first.shape) < _MUTATION)
        children = np.where(takes_second, second, first)
        children = np.where(is_redrawn, problem.sample(rng, _MEMBERS), children)
        population = best_first(problem, parents.join(score(problem, children)))
        population = population.take(slice(_MEMBERS))
    feasible = population.take(population.violations == 0)
    return -float(feasible.values[:, 0].min(initial=np.inf))


def nevergrad_search(problem: SearchProblem, rng: np.random.Generator, count: int) -> float:
    """Ask Nevergrad's best discrete optimiser, one architecture at a time as it wants."""
    import nevergrad

    space = nevergrad.p.Tuple(
        *(nevergrad.p.TransitionChoice(options) for options in _options(problem))
    )
    space.random_state.seed(int(rng.integers(2**31)))
    optimizer = nevergrad.optimizers.registry["DiscreteLenglerOnePlusOne"](space, budget=count)
    best = np.inf
    for _ in range(count):
        asked = optimizer.ask()
        values, violations = _score(problem, np.array([asked.value], dtype=np.int64))
        optimizer.tell(asked, float(values[0, 0] + 10 * violations[0]))
        if violations[0] == 0:
            best = min(best, float(values[0, 0]))
    return -best


def optuna_search(problem: SearchProblem, rng: np.random.Generator, count: int) -> float:
    """Ask Optuna's tree-structured Parzen estimator, one architecture at a time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=int(rng.integers(2**31)), multivariate=False)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    spaces = {
        str(number): optuna.distributions.CategoricalDistribution(options)
        for number, options in enumerate(_options(problem))
    }
    best = np.inf
    for _ in range(count):
        trial = study.ask(spaces)
        row = [trial.params[str(number)] for number in range(len(spaces))]
        values, violations = _score(problem, np.array([row], dtype=np.int64))
        study.tell(trial, float(values[0, 0] + 10 * violations[0]))
        if violations[0] == 0:
            best = min(best, float(values[0, 0]))
    return -best


def _options(problem: SearchProblem) -> list[list[int]]:
    """Return the choices of each gene that may be searched."""
    counts = [len(gene.choices) for gene in problem.space.genes]
    return [problem.resolution_choices.tolist(), *(list(range(n)) for n in counts[1:])]


def _score(problem: SearchProblem, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return problem.score(problem.space.mark_absent(rows))


Rival = Callable[[SearchProblem, np.random.Generator, int], float]


def installed_rivals() -> dict[str, Rival]:
    """Return the rivals from other libraries, those that can be imported."""
    offered: dict[str, tuple[str, Rival]] = {
        "Nevergrad, DiscreteLenglerOnePlusOne": ("nevergrad", nevergrad_search),
        "Optuna, TPE": ("optuna", optuna_search),
    }
    return {name: way for name, (module, way) in offered.items() if find_spec(module)}
