"""How good predictions are: relative errors as fractions, and rank agreement."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RANK_CHUNK = 1024


def mape(actual: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean absolute relative error as a fraction (0.05 is 5 %)."""
    return float(np.mean(np.abs(relative_errors(actual, predicted))))


def rmse(actual: ArrayLike, predicted: ArrayLike) -> float:
    """Return the root of the mean squared error, in the unit of the values."""
    truth, guess = _pair(actual, predicted)
    return float(np.sqrt(np.mean((guess - truth) ** 2)))


def within_tolerance(actual: ArrayLike, predicted: ArrayLike, tolerance: float) -> float:
    """Return the share of predictions within ± `tolerance` (a fraction) of the actual value."""
    return float(np.mean(np.abs(relative_errors(actual, predicted)) <= tolerance))


def relative_errors(actual: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Return `(predicted - actual) / actual`, of shape (n,).

    Raises
    ------
    ValueError
        If an actual value is zero: a relative error is then undefined.
    """
    truth, guess = _pair(actual, predicted)
    if np.any(truth == 0):
        msg = "an actual value is 0, so its relative error is undefined"
        raise ValueError(msg)
    return (guess - truth) / np.abs(truth)


def spearman(actual: ArrayLike, predicted: ArrayLike) -> float:
    """Return the rank correlation (ties share their mean rank); NaN if either side is constant."""
    truth, guess = _pair(actual, predicted)
    first, second = _mean_ranks(truth), _mean_ranks(guess)
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum() / norm) if norm else float("nan")


def kendall_tau(actual: ArrayLike, predicted: ArrayLike) -> float:
    """Return Kendall's tau-b (corrected for ties); NaN if either side is constant."""
    truth, guess = _pair(actual, predicted)
    agreement = pairs_first = pairs_second = 0.0
    for start in range(0, len(truth), _RANK_CHUNK):
        rows = slice(start, start + _RANK_CHUNK)
        first = np.sign(truth[rows, None] - truth[None, :])
        second = np.sign(guess[rows, None] - guess[None, :])
        agreement += float((first * second).sum())
        pairs_first += float(np.abs(first).sum())
        pairs_second += float(np.abs(second).sum())
    norm = np.sqrt(pairs_first * pairs_second)
    return float(agreement / norm) if norm else float("nan")


def summary(actual: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Return every figure that `fit-latency` and the benchmarks report, by name."""
    return {
        "mape": mape(actual, predicted),
        "within_5_percent": within_tolerance(actual, predicted, 0.05),
        "within_10_percent": within_tolerance(actual, predicted, 0.10),
        "spearman": spearman(actual, predicted),
        "kendall_tau": kendall_tau(actual, predicted),
    }


def _pair(
    actual: ArrayLike, predicted: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both as float64 vectors after checking that they are alike and not empty."""
    truth = np.asarray(actual, dtype=np.float64)
    guess = np.asarray(predicted, dtype=np.float64)
    if truth.ndim != 1 or truth.shape != guess.shape or not len(truth):
        msg = (
            "actual and predicted must be non-empty vectors of one length, "
            f"got shapes {truth.shape} and {guess.shape}"
        )
        raise ValueError(msg)
    return truth, guess


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks from 0, equal values sharing the mean of their positions."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2.0)[inverse]
