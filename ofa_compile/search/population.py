"""Genotypes with what they score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.config import VIOLATION_PENALTY
from ofa_compile.search.pareto import non_dominated_mask
from ofa_compile.search.problem import Indices, SearchProblem


@dataclass
class Scored:
    """Genotypes, their values (see `SearchProblem.score`) and violations, one row each."""

    genotypes: Indices
    values: NDArray[np.float64]
    violations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.genotypes)

    @property
    def objectives(self) -> NDArray[np.float64]:
        """Negated accuracy and cost, of shape (n, 2)."""
        return self.values[:, :2]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Scored:
        """Return some of the members."""
        return Scored(self.genotypes[rows], self.values[rows], self.violations[rows])

    def join(self, *others: Scored) -> Scored:
        """Return the members of all."""
        parts = (self, *others)
        return Scored(
            np.concatenate([part.genotypes for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.violations for part in parts]),
        )


def score(problem: SearchProblem, genotypes: Indices) -> Scored:
    """Score genotypes by the architectures they express."""
    values, violations = problem.score(problem.space.mark_absent(genotypes))
    return Scored(genotypes, values, violations)


def feasible_front(problem: SearchProblem, members: Scored) -> Scored:
    """Return the feasible members that nothing dominates, one of equal architectures each."""
    members = members.take(members.violations == 0)
    if not len(members):
        return members
    members = members.take(non_dominated_mask(members.objectives))
    return members.take(problem.distinct(members.genotypes))


def merit(members: Scored) -> NDArray[np.float64]:
    """Return what is to be small: negated accuracy, with violations held against it."""
    value: NDArray[np.float64] = members.values[:, 0] + VIOLATION_PENALTY * members.violations
    return value


def best_first(problem: SearchProblem, members: Scored) -> Scored:
    """Sort by merit, then by cost; of equal architectures one stays."""
    members = members.take(problem.distinct(members.genotypes))
    return members.take(np.lexsort((members.values[:, 1], merit(members))))


def most_accurate(members: Scored) -> Scored:
    """Return the best feasible member alone; without one, the least violating."""
    order = np.lexsort((members.values[:, 1], members.values[:, 0], members.violations))
    return members.take(order[:1])
