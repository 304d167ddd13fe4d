"""The part of the accuracy predictor that ridge regression fits: effects of choices, and of pairs.

A choice acts much alike in every block, and more so within a stage: besides a half-weight column
per entry of the encoding there is one per kind and value of choice, and one per kind, stage and
value. The ridge penalty then pulls blocks towards each other, not to zero (measured on 279 subnets
of ofa_mbv3_cifar: RMSE 0.80 instead of 0.85 points). Choices also act on each other: products of
the mean choices per kind and stage bring it to 0.71 (280 subnets; boosted trees: 0.72).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.space import SearchSpace

__all__ = ["Basis", "basis_of", "fit_basis", "solve_ridge"]

_PAIR_SCALE = 0.3  # of the products beside the choices: smaller is penalised more
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Columns over the entries of an encoding.

    Attributes
    ----------
    effects
        Of shape (encoding size, columns): what is fitted linearly.
    means
        Of shape (encoding size, columns): mean choices in -1..1, whose products are fitted.
    one_hot
        Entries of the first gene, one of which is 1 in every encoding: they carry the intercept.
    """

    effects: Floats
    means: Floats
    one_hot: int

    def products(self, codes: NDArray[np.float32]) -> Floats:
        """Return the products of all pairs of mean choices, of shape (n, pairs)."""
        means = codes @ self.means
        first, second = np.triu_indices(means.shape[1])
        products: Floats = _PAIR_SCALE * means[:, first] * means[:, second]
        return products


def basis_of(space: SearchSpace) -> Basis:
    """Return the basis of a search space."""
    entries: list[tuple[str, int, object]] = []
    levels: list[float] = []
    slots: dict[tuple[str, int], int] = {}
    for gene in space.genes:
        kind = gene.name.split(".")[0] if gene.stage >= 0 else gene.name
        values: list[object] = [*gene.choices, *(["absent"] if gene.optional else [])]
        entries += [(kind, gene.stage, value) for value in values]
        steps = max(1, len(gene.choices) - 1)
        levels += [2.0 * i / steps - 1.0 for i in range(len(gene.choices))]
        levels += [0.0] * gene.optional
        slots[kind, gene.stage] = slots.get((kind, gene.stage), 0) + 1
    effects = [
        0.5 * np.eye(len(entries)),
        _membership([(kind, value) for kind, _, value in entries]),
        0.5 * _membership(entries),
    ]
    places = [(kind, stage) for kind, stage, _ in entries]
    share = np.array([level / slots[place] for level, place in zip(levels, places, strict=True)])
    return Basis(np.hstack(effects), _membership(places) * share[:, None], len(space.resolutions))


def _membership(keys: Sequence[object]) -> Floats:
    """Return zeros and ones of shape (keys, distinct keys)."""
    column = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    matrix = np.zeros((len(keys), len(column)))
    matrix[np.arange(len(keys)), [column[key] for key in keys]] = 1.0
    return matrix


def fit_basis(
    codes: NDArray[np.float32], target: Floats, basis: Basis, penalty: float
) -> tuple[dict[str, NDArray[np.float32]], Floats]:
    """Fit effects and products by ridge regression.

    Parameters
    ----------
    codes
        Encodings of shape (n, encoding size).
    target
        Standardised accuracies of shape (n,).
    basis
        Of the search space.
    penalty
        Ridge penalty.

    Returns
    -------
    Weights of the predictor, and what they give for `codes`.
    """
    columns = np.hstack([codes @ basis.effects, basis.products(codes)])
    centre = columns.mean(axis=0)
    x = columns - centre
    solution = solve_ridge(x, target, penalty)
    split = basis.effects.shape[1]
    linear = basis.effects @ solution[:split]
    linear[: basis.one_hot] -= centre @ solution
    count = basis.means.shape[1]
    pairs = np.zeros((count, count))
    pairs[np.triu_indices(count)] = _PAIR_SCALE * solution[split:]
    weights = {
        "linear.weight": linear.astype(np.float32),
        "pairs.means": basis.means.astype(np.float32),
        "pairs.weight": pairs.astype(np.float32),
    }
    return weights, x @ solution


def solve_ridge(columns: Floats, target: Floats, penalty: float) -> Floats:
    """Return the coefficients of centred columns that ridge regression gives."""
    gram = columns.T @ columns + penalty * np.eye(columns.shape[1])
    return np.asarray(np.linalg.solve(gram, columns.T @ target), np.float64)
