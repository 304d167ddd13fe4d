from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.predictors import metrics

scipy_stats = pytest.importorskip("scipy.stats")


def test_relative_measures_are_fractions() -> None:
    actual, predicted = [10.0, 20.0, 40.0], [11.0, 20.0, 30.0]
    assert metrics.mape(actual, predicted) == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert metrics.within_tolerance(actual, predicted, 0.10) == pytest.approx(2 / 3)
    assert metrics.rmse(actual, predicted) == pytest.approx(np.sqrt(101 / 3))


@pytest.mark.parametrize("ties", [False, True])
def test_rank_measures_equal_scipy(ties: bool) -> None:
    rng = np.random.default_rng(3)
    actual = rng.normal(size=1500)
    predicted = actual + rng.normal(size=1500)
    if ties:
        actual, predicted = actual.round(1), predicted.round(1)
    assert metrics.spearman(actual, predicted) == pytest.approx(
        scipy_stats.spearmanr(actual, predicted).statistic, abs=1e-12
    )
    assert metrics.kendall_tau(actual, predicted) == pytest.approx(
        scipy_stats.kendalltau(actual, predicted).statistic, abs=1e-12
    )


def test_perfect_and_reversed_ranks() -> None:
    values = np.arange(1.0, 9.0)
    assert metrics.kendall_tau(values, values) == 1.0
    assert metrics.spearman(values, -values) == -1.0
    assert metrics.summary(values, values)["mape"] == 0.0


def test_constant_side_has_no_rank_agreement() -> None:
    assert np.isnan(metrics.kendall_tau([1.0, 2.0], [3.0, 3.0]))
    assert np.isnan(metrics.spearman([1.0, 2.0], [3.0, 3.0]))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        metrics.mape([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="non-empty"):
        metrics.rmse([], [])
    with pytest.raises(ValueError, match="undefined"):
        metrics.mape([0.0], [1.0])
