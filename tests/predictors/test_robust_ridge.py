from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.predictors import robust_ridge
from ofa_compile.predictors.robust_ridge import fit_robust_ridge, robust_scale


def make_data(num_outliers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(80, 5))
    truth = 10 + columns @ np.array([1.0, 0.5, 0.2, 0.0, -0.3])
    noisy = truth * (1 + 0.01 * rng.normal(size=80))
    noisy[:num_outliers] *= 2
    return columns, truth, noisy


def test_outliers_change_little() -> None:
    columns, truth, clean = make_data(0)
    _, _, dirty = make_data(8)
    fit_clean, fit_dirty = fit_robust_ridge(columns, clean), fit_robust_ridge(columns, dirty)
    assert np.abs(fit_clean.predict(columns) / truth - 1).max() < 0.015
    assert np.abs(fit_dirty.predict(columns) / truth - 1).max() < 0.03
    assert fit_dirty.scale < 0.03


def test_leave_one_out_errors_are_those_of_refitting() -> None:
    columns, _, target = make_data(0)
    columns, target = columns[:12], target[:12]
    fit = fit_robust_ridge(columns, target)
    others = np.arange(12) != 3
    refit = fit_robust_ridge(columns[others], target[others])
    error = refit.predict(columns[3:4])[0] / target[3] - 1
    assert abs(fit.loo_errors[3] - error) < 0.5 * abs(error) + 0.002


def test_a_fit_through_every_point_does_not_look_perfect(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more columns than samples and hardly a penalty, residuals vanish; errors must not."""
    monkeypatch.setattr(robust_ridge, "_ALPHAS", np.array([1e-7]))
    monkeypatch.setattr(robust_ridge, "_NUM_REWEIGHTINGS", 0)
    rng = np.random.default_rng(3)
    columns, target = rng.normal(size=(12, 40)), rng.uniform(5, 6, size=12)
    fit = fit_robust_ridge(columns, target)
    np.testing.assert_allclose(fit.predict(columns), target, rtol=1e-5)
    for left_out in range(12):
        others = np.arange(12) != left_out
        refit = fit_robust_ridge(columns[others], target[others])
        error = refit.predict(columns[[left_out]])[0] / target[left_out] - 1
        assert fit.loo_errors[left_out] == pytest.approx(error, rel=1e-3)


def test_constant_columns_and_more_columns_than_samples_are_harmless() -> None:
    rng = np.random.default_rng(1)
    columns = np.concatenate([np.zeros((10, 3)), rng.normal(size=(10, 40))], axis=1)
    fit = fit_robust_ridge(columns, 5 + 0.1 * columns[:, 3])
    assert np.isfinite(fit.predict(columns)).all()


def test_robust_scale_is_the_standard_deviation_of_normal_errors() -> None:
    errors = np.random.default_rng(2).normal(scale=0.1, size=20_000)
    errors[:1000] = 50
    assert abs(robust_scale(errors) - 0.1) < 0.01
