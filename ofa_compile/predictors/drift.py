"""What a reference network cannot cancel: how much more, or less, others feel a machine's state.

A subnet's time is scaled by its reference's drift, as if both slowed down alike. Where caches are
shared or memory is busy, a small reference feels it more than a large subnet: measured on a shared
Zen 4 machine, times went with the drift to the power of 0.7, not 1. The rest of the power is learnt
from the measured subnets themselves.
"""

from __future__ import annotations

import numpy as np

from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.latency_base import LatencyBase
from ofa_compile.predictors.robust_ridge import Array

_NUM_ROUNDS = 3
_HUBER = 1.5
# Without at least this much drift there is nothing to learn.
_MIN_DEVIATION = 0.005


def fit_drift_exponent(batch: FeatureBatch, target: Array, drift: Array) -> float:
    """Return the power of `1 + drift` that latencies still hold; 0 where data show none.

    Parameters
    ----------
    batch
        Features of the measured architectures.
    target
        Their latencies, of shape (n,), scaled by the drift of the reference.
    drift
        The reference's time over its first, minus one, in each measurement, of shape (n,).
    """
    log_drift = np.log1p(drift)
    if log_drift.std() < _MIN_DEVIATION:
        return 0.0
    exponent = 0.0
    for _ in range(_NUM_ROUNDS):
        _, fit = LatencyBase.fit_best(batch, without_drift(target, drift, exponent))
        exponent += _shrunk_slope(log_drift, -np.log1p(fit.loo_errors), fit.scale)
    return exponent


def without_drift(target: Array, drift: Array, exponent: float) -> Array:
    """Return latencies as they would be in the state that the reference was first timed in."""
    corrected: Array = target * (1.0 + drift) ** -exponent
    return corrected


def _shrunk_slope(x: Array, y: Array, scale: float) -> float:
    """Return the robust slope of y over x, drawn to zero as far as it may be chance."""
    trust = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(y), 1e-12))
    x = x - np.average(x, weights=trust)
    y = y - np.average(y, weights=trust)
    spread = float(np.sum(trust * x**2))
    slope = float(np.sum(trust * x * y)) / spread
    error = float(np.sum(trust * (y - slope * x) ** 2)) / max(1, len(x) - 2) / spread
    return slope * max(0.0, 1.0 - error / slope**2) if slope else 0.0
