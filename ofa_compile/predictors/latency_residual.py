"""The trees of the latency predictor: what the linear base leaves, as far as it repeats."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ofa_compile.errors import MissingDependencyError
from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.latency_base import LatencyBase
from ofa_compile.predictors.latency_model import tree_columns
from ofa_compile.predictors.robust_ridge import Array, robust_scale
from ofa_compile.predictors.trees import TreeEnsemble

_NUM_FOLDS = 5
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# A residual this many robust deviations out is an interrupt, not something to learn.
_CLIP_DEVIATIONS = 4.0


@dataclass(frozen=True, kw_only=True)
class LatencyPredictorConfig:
    """What the XGBoost residual is fitted with; the seed also draws the folds."""

    num_rounds: int = 120
    max_depth: int = 3
    learning_rate: float = 0.05
    min_child_weight: float = 5.0
    subsample: float = 0.8
    colsample_bytree: float = 0.5
    use_residual: bool = True
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """Predictions of each sample by a fit without its fold.

    Attributes
    ----------
    share
        Share of the trees' correction with the least error.
    base_ms, full_ms
        Without and with that much of it, of shape (n,).
    """

    share: float
    base_ms: Array
    full_ms: Array


def cross_validate(
    batch: FeatureBatch, target: Array, config: LatencyPredictorConfig
) -> CrossValidation:
    """Choose the residual's share; leave parts of the samples out in turn."""
    order = np.random.default_rng(config.seed).permutation(len(target))
    base_ms, correction = np.empty(len(target)), np.zeros(len(target))
    for fold in np.array_split(order, _NUM_FOLDS):
        rest = np.setdiff1d(order, fold)
        train, test = batch.rows(rest), batch.rows(fold)
        base, ridge = LatencyBase.fit_best(train, target[rest])
        base_ms[fold] = np.maximum(base.predict(test), 0.25 * target[rest].min())
        if config.use_residual:
            booster = fit_residual(train, base, ridge.loo_errors, config)
            trees = TreeEnsemble.from_xgboost_json(booster)
            correction[fold] = trees.predict(tree_columns(test, base_ms[fold]))
    clip = _CLIP_DEVIATIONS * robust_scale(base_ms / target - 1.0)
    errors = [
        float(np.minimum(np.abs(base_ms * np.exp(share * correction) / target - 1), clip).mean())
        for share in _SHARES
    ]
    share = _SHARES[int(np.argmin(errors))] if config.use_residual else 0.0
    return CrossValidation(
        share=share, base_ms=base_ms, full_ms=base_ms * np.exp(share * correction)
    )


def fit_residual(
    batch: FeatureBatch, base: LatencyBase, loo_errors: Array, config: LatencyPredictorConfig
) -> dict[str, Any]:
    """Fit trees to the base's leave-one-out residuals; return xgboost's own JSON.

    Raises
    ------
    MissingDependencyError
        If xgboost is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        msg = "fitting a latency predictor needs xgboost"
        raise MissingDependencyError(msg, hint="pip install xgboost-cpu") from error
    parameters = {
        "max_depth": config.max_depth,
        "eta": config.learning_rate,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bytree": config.colsample_bytree,
        "seed": config.seed,
        "nthread": 1,
    }
    columns = tree_columns(batch, base.predict(batch))
    data = xgboost.DMatrix(columns, _residual(loo_errors))
    booster = xgboost.train(parameters, data, num_boost_round=config.num_rounds)
    document: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))
    return document


def _residual(loo_errors: Array) -> Array:
    """Return the logarithm of target over leave-one-out prediction, outliers clipped."""
    residual = -np.log(np.maximum(1.0 + loo_errors, 0.05))
    clip = _CLIP_DEVIATIONS * robust_scale(residual)
    return np.clip(residual, -clip, clip)
