"""What of a machine's state is left in latencies after a reference network cancelled its share."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.predictors.drift import fit_drift_exponent, without_drift
from ofa_compile.predictors.features import LatencyFeatures
from ofa_compile.space.registry import search_space

SPACE = search_space("ofa_mbv3_d234_e346_k357_w1.0")


@pytest.mark.parametrize("exponent", [-0.3, 0.0, 0.5])
def test_the_power_is_found_and_removed(exponent: float) -> None:
    rng = np.random.default_rng(0)
    batch = LatencyFeatures(SPACE).batch(SPACE.sample_indices(rng, 120))
    quiet = batch.totals.sum(axis=1) * np.exp(0.003 * rng.normal(size=120))
    drift = 0.04 * rng.normal(size=120)
    measured = quiet * (1 + drift) ** exponent
    found = fit_drift_exponent(batch, measured, drift)
    assert found == pytest.approx(exponent, abs=0.05)
    np.testing.assert_allclose(without_drift(measured, drift, exponent), quiet)


def test_where_little_drifts_or_little_is_known_nothing_is_removed() -> None:
    rng = np.random.default_rng(1)
    batch = LatencyFeatures(SPACE).batch(SPACE.sample_indices(rng, 12))
    noisy = batch.totals.sum(axis=1) * np.exp(0.02 * rng.normal(size=12))
    assert fit_drift_exponent(batch, noisy, np.full(12, 0.1)) == 0.0
    assert abs(fit_drift_exponent(batch, noisy, 0.01 * rng.normal(size=12))) < 1.5
