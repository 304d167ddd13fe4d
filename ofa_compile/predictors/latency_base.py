"""The linear part of the latency predictor: which columns it sees, and its fit.

Three variants of growing freedom are tried; the leave-one-out error decides. With few samples the
network's totals are all that can be learnt; with more, blocks may differ in their efficiency, and
products of totals follow a device that is bound by launches at first and by arithmetic later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.robust_ridge import Array, RidgeFit, fit_robust_ridge

VARIANTS = ("totals", "totals+slots", "totals+products+slots")

# Factors on standardised columns: the ridge holds these back 25 and 400 times as much as totals.
# Chosen on six GPU data sets (benchmarks/bench_latency_predictor.py), 100 training subnets.
_PRODUCT_WEIGHT = 0.2
_SLOT_WEIGHT = 0.05


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
    """A robust ridge on analytic features.

    Parameters
    ----------
    variant
        One of `VARIANTS`.
    coefficients, intercept
        On raw (not standardised) totals, products and slots.
    """

    def __init__(
        self,
        variant: str,
        intercept: float,
        totals: Array,
        products: Array,
        slots: Array,
    ) -> None:
        self.variant = variant
        self.intercept = intercept
        self.totals = totals
        self.products = products
        self.slots = slots

    @classmethod
    def fit(cls, batch: FeatureBatch, target: Array, variant: str) -> tuple[LatencyBase, RidgeFit]:
        """Fit one variant; the coefficients are kept for raw features."""
        groups = [(batch.totals, 1.0)]
        if "products" in variant:
            groups.append((_products(batch.summary), _PRODUCT_WEIGHT))
        if "slots" in variant:
            groups.append((batch.per_slot, _SLOT_WEIGHT))
        scalers = [Standardizer.fit(columns, weight) for columns, weight in groups]
        parts = [
            scaler.apply(columns) for scaler, (columns, _) in zip(scalers, groups, strict=True)
        ]
        fit = fit_robust_ridge(np.concatenate(parts, axis=1), target)
        intercept, raw = fit.intercept, list[Array]()
        splits = np.cumsum([part.shape[1] for part in parts])[:-1]
        for scaler, coefficients in zip(scalers, np.split(fit.coefficients, splits), strict=True):
            raw.append(coefficients * scaler.factor)
            intercept -= float(raw[-1] @ scaler.mean)
        none = np.empty(0)
        products = raw[1] if "products" in variant else none
        slots = raw[-1] if "slots" in variant else none
        return cls(variant, intercept, raw[0], products, slots), fit

    @classmethod
    def fit_best(cls, batch: FeatureBatch, target: Array) -> tuple[LatencyBase, RidgeFit]:
        """Fit every variant and keep the one with the least leave-one-out error."""
        fits = [cls.fit(batch, target, variant) for variant in VARIANTS]
        # One common clip, else the fit with the widest errors would be judged most leniently.
        clip = 3.0 * min(fit.scale for _, fit in fits)
        scores = [np.minimum(np.abs(fit.loo_errors), clip).mean() for _, fit in fits]
        return fits[int(np.argmin(scores))]

    def predict(self, batch: FeatureBatch) -> Array:
        """Return the linear prediction, of shape (n,)."""
        result = batch.totals @ self.totals + self.intercept
        if len(self.products):
            result += _products(batch.summary) @ self.products
        if len(self.slots):
            result += batch.per_slot @ self.slots
        return result

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        return {
            "variant": self.variant,
            "intercept": self.intercept,
            "totals": self.totals.tolist(),
            "products": self.products.tolist(),
            "slots": self.slots.tolist(),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> LatencyBase:
        """Read a model back."""
        arrays = (
            np.array(document[key], dtype=np.float64) for key in ("totals", "products", "slots")
        )
        return cls(str(document["variant"]), float(document["intercept"]), *arrays)


def _products(columns: Array) -> Array:
    """Return the columns themselves and all their products, of shape (n, k + k (k + 1) / 2)."""
    first, second = np.triu_indices(columns.shape[1])
    return np.concatenate([columns, columns[:, first] * columns[:, second]], axis=1)
