"""The linear part of the latency predictor: which columns it sees, and its fit.

Variants of growing freedom are tried; the leave-one-out error decides. With few samples an anchor
(a latency from elsewhere) or the network's totals are all that can be learnt; with more, blocks may
differ in their efficiency, and products of totals follow a device that is bound by launches at
first and by arithmetic later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.robust_ridge import Array, RidgeFit, fit_robust_ridge

_PRODUCTS_ALONE = "totals+products"
VARIANTS = ("totals", "totals+slots", _PRODUCTS_ALONE, "totals+products+slots")
_WITH_ANCHORS = ("anchors", *(f"anchors+{variant}" for variant in VARIANTS))

# Factors on standardised columns: the ridge holds these back 25 and 400 times as much as totals.
# Chosen on six GPU data sets (benchmarks/bench_latency_predictor.py), 100 training subnets.
_WEIGHTS = {"anchors": 1.0, "totals": 1.0, "products": 0.2, "slots": 0.05}
# With fewer samples the leave-one-out error is too noisy to tell that an anchor misleads, or that
# differences between blocks are noise alone.
_MIN_TO_DROP_ANCHORS, _MIN_TO_DROP_SLOTS = 16, 40
# Beside an anchor, totals only correct.
_TOTALS_BESIDE_ANCHORS = 0.2


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each column; a column that is constant in the data is switched off."""

    mean: Array
    factor: Array

    @classmethod
    def fit(cls, columns: Array, weight: float) -> Standardizer:
        """Learn to bring columns to mean 0 and standard deviation `weight`."""
        mean, deviation = columns.mean(axis=0), columns.std(axis=0)
        varies = deviation > 1e-9 * np.maximum(np.abs(mean), 1e-9)
        return cls(mean, np.where(varies, weight / np.where(varies, deviation, 1.0), 0.0))

    def apply(self, columns: Array) -> Array:
        """Standardise columns of shape (n, num_columns)."""
        return (columns - self.mean) * self.factor


class LatencyBase:
    """A robust ridge on groups of features.

    Parameters
    ----------
    intercept
        In milliseconds.
    coefficients
        Group of columns -> coefficients on its raw (not standardised) columns.
    """

    def __init__(self, intercept: float, coefficients: Mapping[str, Array]) -> None:
        self.intercept = intercept
        self.coefficients = dict(coefficients)

    @property
    def variant(self) -> str:
        """Which groups it sees."""
        return "+".join(self.coefficients)

    @property
    def uses_slots(self) -> bool:
        """Whether it needs the features of every slot."""
        return "slots" in self.coefficients

    @classmethod
    def fit(cls, batch: FeatureBatch, target: Array, variant: str) -> tuple[LatencyBase, RidgeFit]:
        """Fit one variant; the coefficients are kept for raw features."""
        groups = variant.split("+")
        weights = dict(_WEIGHTS)
        if "anchors" in groups:
            weights["totals"] = _TOTALS_BESIDE_ANCHORS
        columns = [_columns(batch, group) for group in groups]
        pairs = list(zip(groups, columns, strict=True))
        scalers = [Standardizer.fit(values, weights[group]) for group, values in pairs]
        parts = [scaler.apply(values) for scaler, values in zip(scalers, columns, strict=True)]
        guess = 0.0
        if "anchors" in groups:
            # The last anchor in proportion: what the ridge falls back to where data are few.
            anchor = batch.anchors[:, -1]
            guess = float(np.median(target / anchor))
            fit = fit_robust_ridge(np.concatenate(parts, axis=1), target, guess * anchor)
        else:
            fit = fit_robust_ridge(np.concatenate(parts, axis=1), target)
        intercept, raw = fit.intercept, dict[str, Array]()
        splits = np.cumsum([part.shape[1] for part in parts])[:-1]
        fitted = np.split(fit.coefficients, splits)
        for group, scaler, coefficients in zip(groups, scalers, fitted, strict=True):
            raw[group] = coefficients * scaler.factor
            intercept -= float(raw[group] @ scaler.mean)
            if group == "anchors":
                raw[group][-1] += guess
        return cls(intercept, raw), fit

    @classmethod
    def fit_best(cls, batch: FeatureBatch, target: Array) -> tuple[LatencyBase, RidgeFit]:
        """Fit every variant and keep the one with the least leave-one-out error."""
        variants: tuple[str, ...] = VARIANTS
        if batch.anchors.shape[1]:
            can_judge = len(target) >= _MIN_TO_DROP_ANCHORS
            variants = (*_WITH_ANCHORS, *(VARIANTS if can_judge else ()))
        if len(target) < _MIN_TO_DROP_SLOTS:
            variants = tuple(name for name in variants if not name.endswith(_PRODUCTS_ALONE))
        fits = [cls.fit(batch, target, variant) for variant in variants]
        # One common clip, else the fit with the widest errors would be judged most leniently.
        clip = 3.0 * min(fit.scale for _, fit in fits)
        scores = [np.minimum(np.abs(fit.loo_errors), clip).mean() for _, fit in fits]
        return fits[int(np.argmin(scores))]

    def predict(self, batch: FeatureBatch) -> Array:
        """Return the linear prediction, of shape (n,)."""
        result = np.full(len(batch.totals), self.intercept)
        for group, coefficients in self.coefficients.items():
            result += _columns(batch, group) @ coefficients
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        groups = {group: values.tolist() for group, values in self.coefficients.items()}
        return {"intercept": self.intercept, "coefficients": groups}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> LatencyBase:
        """Read a model back; a ValueError says that it is none."""
        groups = document["coefficients"]
        if not groups or not set(groups) <= set(_WEIGHTS):
            msg = f"a base of {sorted(groups)}"
            raise ValueError(msg)
        arrays = {group: np.array(values, dtype=np.float64) for group, values in groups.items()}
        return cls(float(document["intercept"]), arrays)


def _columns(batch: FeatureBatch, group: str) -> Array:
    """Return one group of columns, of shape (n, k)."""
    match group:
        case "anchors":
            return batch.anchors
        case "totals":
            return batch.totals
        case "products":
            return _products(batch.summary)
        case _:
            return batch.per_slot


def _products(columns: Array) -> Array:
    """Return the columns themselves and all their products, of shape (n, k + k (k + 1) / 2)."""
    first, second = np.triu_indices(columns.shape[1])
    return np.concatenate([columns, columns[:, first] * columns[:, second]], axis=1)
