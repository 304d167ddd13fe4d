"""Ridge regression for times: relative errors count, outliers count less.

A time that an interrupt doubled would drag a least-squares fit along; weights after Huber keep it
from doing so. The penalty is chosen by the leave-one-out error, which a ridge gives in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_ALPHAS = 10.0 ** np.arange(-5.0, 4.01, 0.5)
_HUBER = 1.5
_NUM_REWEIGHTINGS = 5
_MIN_SLACK = 1e-12


@dataclass(frozen=True)
class RidgeFit:
    """A fitted linear model.

    Attributes
    ----------
    coefficients, intercept
        Prediction is `columns @ coefficients + intercept`.
    loo_errors
        Relative error of each sample as predicted without it, of shape (n,).
    scale
        Robust standard deviation of those errors.
    alpha
        The penalty that was chosen.
    """

    coefficients: Array
    intercept: float
    loo_errors: Array
    scale: float
    alpha: float

    def predict(self, columns: Array) -> Array:
        """Return the prediction for each row, of shape (n,)."""
        return columns @ self.coefficients + self.intercept


def fit_robust_ridge(columns: Array, target: Array, offset: Array | None = None) -> RidgeFit:
    """Fit a ridge on relative errors, down-weighting outliers.

    Parameters
    ----------
    columns
        Standardised features, of shape (n, num_columns). A column scaled down is penalised more.
    target
        Positive values, of shape (n,).
    offset
        A first guess at them, of shape (n,), to which the fit is added; errors stay relative to the
        target. Zero if None.
    """
    trust, guess = np.ones(len(target)), np.zeros(len(target)) if offset is None else offset
    fit = _fit_weighted(columns, target, guess, trust)
    for _ in range(_NUM_REWEIGHTINGS):
        trust = np.minimum(1.0, _HUBER * fit.scale / np.maximum(np.abs(fit.loo_errors), 1e-12))
        fit = _fit_weighted(columns, target, guess, trust)
    return fit


def robust_scale(errors: Array) -> float:
    """Return the standard deviation that the median absolute value of the errors stands for."""
    return float(1.4826 * np.median(np.abs(errors))) + 1e-9


def _fit_weighted(columns: Array, target: Array, guess: Array, trust: Array) -> RidgeFit:
    """Fit with the given trust in each sample; the best penalty is found from one SVD."""
    weights = np.sqrt(trust) / target
    rows, values = columns * weights[:, None], (target - guess) * weights
    # Projecting the weights out leaves the intercept unpenalised.
    unit = weights / np.linalg.norm(weights)
    centred = values - unit * (unit @ values)
    left, singular, right = np.linalg.svd(rows - np.outer(unit, unit @ rows), full_matrices=False)
    is_real = singular > 1e-10 * max(singular[0], 1e-300)
    left, singular, right = left[:, is_real], singular[is_real], right[is_real]
    projected = left.T @ centred
    # What no column reaches: of the values, and of each sample's freedom. Kept apart from what the
    # penalty leaves, since both are tiny where there are more columns than samples.
    beyond = centred - left @ projected
    freedom = np.maximum(1.0 - unit**2 - (left**2).sum(axis=1), 0.0)
    best: tuple[float, float, Array] | None = None
    for alpha in _ALPHAS:
        left_out = alpha / (singular**2 + alpha)
        slack = freedom + (left**2 * left_out).sum(axis=1)
        errors = -(beyond + left @ (left_out * projected)) / np.maximum(slack, _MIN_SLACK)
        score = float((errors**2).sum())
        if best is None or score < best[0]:
            best = (score, float(alpha), errors)
    assert best is not None  # the list of penalties is not empty
    _, alpha, errors = best
    coefficients = right.T @ (singular / (singular**2 + alpha) * projected)
    intercept = float(weights @ (values - rows @ coefficients) / (weights @ weights))
    relative = errors / np.sqrt(trust)
    return RidgeFit(coefficients, intercept, relative, robust_scale(relative), alpha)
