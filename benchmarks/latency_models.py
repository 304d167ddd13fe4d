"""Models of latency to compare, and how: fitted on some subnets, tested on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors import metrics
from ofa_compile.predictors.features import LatencyFeatures
from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.predictors.latency_base import VARIANTS, LatencyBase
from ofa_compile.predictors.latency_residual import LatencyPredictorConfig
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Task:
    """What there is to learn from, beside latencies of subnets."""

    space: SearchSpace
    kernel_times: KernelTimes | None = None
    prior: LatencyPredictor | None = None


Subnets = Sequence[Architecture]
Model = Callable[[Task, Subnets, Array, Subnets, int], Array]


def ours(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Robust ridge on all features, XGBoost residual as far as cross-validation wants it."""
    return _fitted(task, train, ms, test, LatencyPredictorConfig(seed=seed))


def base_only(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Leave the residual out: the robust ridge alone."""
    return _fitted(task, train, ms, test, LatencyPredictorConfig(seed=seed, use_residual=False))


def without_kernel_times(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Fit ours on analytic features alone."""
    return ours(Task(task.space), train, ms, test, seed)


def kernel_sum(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Scale the sum of the kernels' times by the training subnets' median ratio."""
    del seed
    assert task.kernel_times is not None
    seen, unseen = (
        task.kernel_times.per_slot(task.space.indices(part)).sum(axis=1) for part in (train, test)
    )
    return unseen * np.median(ms / seen)


def scaled_prior(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Scale another device's predictor by the training subnets' median ratio."""
    del seed
    assert task.prior is not None
    space = task.space
    seen, unseen = (task.prior.predict_indices(space, space.indices(p)) for p in (train, test))
    return unseen * np.median(ms / seen)


def xgboost_features(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """XGBoost alone on the same features."""
    features = LatencyFeatures(task.space, task.kernel_times)

    def columns(architectures: Subnets) -> Array:
        batch = features.batch(task.space.indices(architectures))
        return np.concatenate([batch.summary, batch.anchors, batch.per_slot], axis=1)

    return _xgboost(columns(train), ms, columns(test), seed)


def xgboost_one_hot(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """XGBoost alone on the one-hot architecture encoding."""
    return _xgboost(task.space.encode(train), ms, task.space.encode(test), seed)


def freest_ridge(task: Task, train: Subnets, ms: Array, test: Subnets, seed: int) -> Array:
    """Fit the ridge's freest variant, for thousands of samples; no other one is tried."""
    del seed
    features = LatencyFeatures(task.space)
    base, _ = LatencyBase.fit(features.batch(task.space.indices(train)), ms, VARIANTS[-1])
    return base.predict(features.batch(task.space.indices(test)))


def figures(actual: Array, predicted: Array) -> dict[str, float]:
    """Return every figure of a comparison."""
    errors = np.abs(metrics.relative_errors(actual, predicted))
    return {**metrics.summary(actual, predicted), "median_error": float(np.median(errors))}


def mean_figures(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the figures of several draws."""
    return {key: float(np.mean([item[key] for item in results])) for key in results[0]}


HEADER = (
    "model", "training subnets", "MAPE", "median error", "within 5 %", "within 10 %", "Spearman",
    "Kendall",
)  # fmt: skip


def row(model: str, size: int, r: Mapping[str, float]) -> tuple[object, ...]:
    """Format one line under `HEADER`."""
    return (
        model, size, f"{100 * r['mape']:.2f} %", f"{100 * r['median_error']:.2f} %",
        f"{100 * r['within_5_percent']:.1f} %", f"{100 * r['within_10_percent']:.1f} %",
        f"{r['spearman']:.4f}", f"{r['kendall_tau']:.4f}",
    )  # fmt: skip


def _fitted(
    task: Task, train: Subnets, ms: Array, test: Subnets, config: LatencyPredictorConfig
) -> Array:
    space = task.space
    predictor = LatencyPredictor(
        space, kernel_times=task.kernel_times, prior=task.prior, config=config
    )
    predictor.fit(train, ms)
    return predictor.predict_indices(space, space.indices(test))


def _xgboost(train: NDArray, ms: Array, test: NDArray, seed: int) -> Array:
    """Fit and predict with settings that suit a few hundred samples."""
    import xgboost

    settings = {
        "max_depth": 4, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.5, "nthread": 1,
        "seed": seed,
    }  # fmt: skip
    booster = xgboost.train(settings, xgboost.DMatrix(train, ms), num_boost_round=300)
    return booster.predict(xgboost.DMatrix(test)).astype(np.float64)
