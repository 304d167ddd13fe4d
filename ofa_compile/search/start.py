"""Where a search begins: along the front of an additive model of the space.

Each gene's effect on accuracy and cost is fitted from random architectures. For an additive model
the best architecture at a price per unit of cost falls out gene by gene, so the whole front of the
model costs nothing. The real front lies close to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.problem import Indices, SearchProblem

_NUM_PRICES = 96
# In units of the model's own span of accuracy over span of cost; beyond it nothing changes.
_PRICE_RANGE = (0.02, 50.0)
_RIDGE = 1.0


def additive_front(problem: SearchProblem, rng: np.random.Generator, count: int) -> Indices:
    """Return the genotypes on the front of an additive model, at every resolution.

    The model is fitted on `count` random architectures.

    Accuracy and cost at one resolution are nearly linear in those at another, which only rescales
    the price: one front serves them all.
    """
    gain, cost = _fit(problem, rng, count)
    span = np.ptp(gain) / max(float(np.ptp(cost)), 1e-12)
    prices = span * np.geomspace(*_PRICE_RANGE, _NUM_PRICES)
    genotypes = np.unique(_cheapest(problem, prices[:, None] * cost - gain), axis=0)
    rows = np.repeat(genotypes, len(problem.resolution_choices), axis=0)
    rows[:, 0] = np.tile(problem.resolution_choices, len(genotypes))
    return rows


def _fit(
    problem: SearchProblem, rng: np.random.Generator, count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit accuracy and cost as sums over the encoding, at the middle resolution."""
    rows = problem.sample(rng, count)
    rows[:, 0] = problem.resolution_choices[len(problem.resolution_choices) // 2]
    rows = problem.space.mark_absent(rows)
    values, _ = problem.score(rows)
    codes = problem.space.encode_indices(rows).astype(np.float64)
    codes -= codes.mean(axis=0)
    targets = values[:, :2] - values[:, :2].mean(axis=0)
    penalty = _RIDGE * np.eye(codes.shape[1])
    effects = np.linalg.solve(codes.T @ codes + penalty, codes.T @ targets)
    return -effects[:, 0], effects[:, 1]


def _cheapest(problem: SearchProblem, price: NDArray[np.float64]) -> Indices:
    """Return the genotype of the least total price, for prices of shape (n, encoding size)."""
    space = problem.space
    offsets = space.encoding_offsets
    rows = np.zeros((len(price), len(space.genes)), dtype=np.int64)
    # What each optional gene saves by being there, at its best choice, instead of absent.
    saving = np.zeros(rows.shape)
    for column, gene in enumerate(space.genes):
        options = price[:, offsets[column] : offsets[column] + len(gene.choices)]
        rows[:, column] = options.argmin(axis=1)
        if gene.optional:
            saving[:, column] = price[:, offsets[column + 1] - 1] - options.min(axis=1)
    for column, gene in enumerate(space.genes):
        if gene.name.startswith("depth."):
            options = price[:, offsets[column] : offsets[column] + len(gene.choices)].copy()
            for choice, depth in enumerate(gene.choices):
                active = space.base_depths[gene.stage] + depth
                for other, block_gene in enumerate(space.genes):
                    is_there = block_gene.stage == gene.stage and block_gene.slot < active
                    if block_gene.optional and is_there:
                        options[:, choice] -= saving[:, other]
            rows[:, column] = options.argmin(axis=1)
    return rows
