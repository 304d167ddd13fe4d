"""How good the accuracy predictor is, beside other models and over the number of subnets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import MissingDependencyError
from ofa_compile.predictors.accuracy_basis import basis_of
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord
from ofa_compile.predictors.accuracy_fit import (
    AccuracyData,
    Floats,
    Model,
    Predict,
    collect,
    cross_validate,
    errors,
    model_of,
)
from ofa_compile.predictors.accuracy_mlp import PAPER_CONFIG, FitConfig
from ofa_compile.space import SearchSpace

__all__ = ["study"]

_TREES = {
    "max_depth": 4, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.5, "nthread": 1,
}  # fmt: skip
_ROUNDS = 400


def study(
    records: list[AccuracyRecord],
    space: SearchSpace,
    *,
    config: FitConfig | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Compare models by cross-validation, and fit the predictor on ever more subnets.

    Parameters
    ----------
    records
        An accuracy data set.
    space
        Search space.
    config
        Of the predictor; None for the defaults.
    progress
        Called with what is being done.

    Returns
    -------
    models
        Errors by name: the predictor, the paper's MLP, and boosted trees.
    learning_curve
        Errors by number of training subnets, on the families held out of all of them.
    """
    config = config or FitConfig()
    data = collect(records, space)
    basis = basis_of(space)
    models: dict[str, Model] = {
        "predictor": model_of(config, space, basis),
        "mlp_3x400": model_of(PAPER_CONFIG, space, basis),
        "boosted_trees": _boosted_trees,
    }
    compared = {}
    for name, model in models.items():
        progress(f"cross-validating {name}")
        predicted, _ = cross_validate(data, model, config)
        compared[name] = errors(data.tested_top1, predicted[data.is_tested])
    progress("learning curve")
    return {"models": compared, "learning_curve": learning_curve(data, models, config)}


def learning_curve(
    data: AccuracyData, models: dict[str, Model], config: FitConfig
) -> list[dict[str, Any]]:
    """Fit on growing parts; test on the larger of 500 and a tenth, held out in whole families."""
    count = len(data.codes)
    # A third of those with all views stays at least: what views do can be learnt only from them.
    wanted = min(max(500, count // 10), count // 3, 2 * int(data.is_tested.sum()) // 3)
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(data.group.max() + 1)[data.group]
    rows = np.argsort(order, kind="stable")
    tested = rows[data.is_tested[rows]]
    held = tested[order[tested] <= order[tested[wanted - 1]]]
    rest = rows[~np.isin(order[rows], order[held])]
    sizes = [size for size in (50, 100, 200, 500, 1000, 2000, 5000) if size < len(rest)]
    curve = []
    for size in [*sizes, len(rest)]:
        seen = rest[:size]
        targets = data.targets(seen)
        for name, model in models.items():
            predicted, _ = model(data.codes[seen], targets)(data.codes[held])
            row = {"model": name, "train_subnets": size, "test_subnets": len(held)}
            curve.append({**row, **errors(data.by_view[held].mean(axis=1), predicted)})
    return curve


def _boosted_trees(codes: NDArray[np.float32], top1: Floats) -> Predict:
    """Fit gradient-boosted trees, the baseline."""
    try:
        import xgboost
    except ImportError as error:
        message = "the baseline of the accuracy study needs xgboost"
        raise MissingDependencyError(message, hint="pip install xgboost-cpu") from error
    mean, std = float(top1.mean()), max(float(top1.std()), 1e-6)
    train = xgboost.DMatrix(codes, (top1 - mean) / std)
    booster = xgboost.train(dict(_TREES), train, num_boost_round=_ROUNDS)

    def predict(codes: NDArray[np.float32]) -> tuple[Floats, Floats]:
        scaled = booster.predict(xgboost.DMatrix(codes)).astype(np.float64)
        return mean + std * scaled, np.zeros(len(codes))

    return predict
