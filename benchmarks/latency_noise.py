"""How much of a latency predictor's error is noise of the measurements themselves.

There are no repeats in the data, so a model from thousands of subnets stands for the truth: it is
fitted five times, each time without a fifth, and what it leaves of that fifth is taken for noise.
Two kinds of figures follow. One is what can be reached: by the truth itself; by the truth scaled
so that most measurements near a latency lie within 10 % (noise is lopsided); and by a predictor
that learns from few subnets of a made-up world, the truth times noise of other subnets of about the
same latency. The other tells whether the residuals are noise at all: what trees still find in them,
and whether they repeat, for the same subnet in other sets, or for the subnet measured just before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from latency_models import Array, Subnets, Task, freest_ridge

from ofa_compile.predictors import metrics

_TOLERANCE = 0.10
_NUM_FOLDS = 5
# Noise depends on the latency; this many subnets have about the same.
_NUM_NEIGHBOURS = 200
# Bins in which the truth is scaled.
_NUM_BINS = 10


@dataclass(frozen=True)
class NoiseModel:
    """Measurements as a truth times noise.

    Attributes
    ----------
    truth_ms
        Prediction of every subnet by a model that was fitted without it, of shape (n,).
    ratios
        Measurement over truth, of shape (n,).
    """

    truth_ms: Array
    ratios: Array

    @classmethod
    def fit(cls, task: Task, architectures: Subnets, ms: Array, seed: int) -> NoiseModel:
        """Fit on all subnets but a fifth, in turns."""
        truth = np.empty(len(ms))
        for rest, fold in _folds(len(ms), seed):
            truth[fold] = freest_ridge(
                task,
                [architectures[i] for i in rest],
                ms[rest],
                [architectures[i] for i in fold],
                0,
            )
        return cls(truth, ms / truth)

    def made_up_ms(self, rng: np.random.Generator) -> Array:
        """Return other measurements of the same subnets, with noise of subnets as fast."""
        order = np.argsort(self.truth_ms)
        half = _NUM_NEIGHBOURS // 2
        places = np.arange(len(order)) + rng.integers(-half, half + 1, len(order))
        ratios = np.empty(len(order))
        ratios[order] = self.ratios[order[np.clip(places, 0, len(order) - 1)]]
        return self.truth_ms * ratios

    def share_of_truth(self) -> float:
        """Return the share of measurements from which the truth is at most 10 % away."""
        return metrics.within_tolerance(self.ratios, np.ones(len(self.ratios)), _TOLERANCE)

    def share_of_best_scale(self) -> float:
        """Return the same for the truth, scaled in each bin of latencies as suits them best.

        The scales are chosen on the measurements that they are judged by, so this leans high.
        """
        bins = np.array_split(self.ratios[np.argsort(self.truth_ms)], _NUM_BINS)
        return sum(map(_most_within, bins)) / len(self.ratios)


def signs_of_signal(
    task: Task, architectures: Subnets, models: Mapping[str, NoiseModel], name: str, seed: int
) -> dict[str, float | None]:
    """Return rank correlations of one set's residuals: about 0 if they are noise of single runs.

    Of the correlations with other sets the largest; None where there is no other.
    """
    ratios = models[name].ratios
    others = [metrics.spearman(ratios, m.ratios) for key, m in models.items() if key != name]
    return {
        "with_trees": metrics.spearman(
            ratios, _tree_predictions(task, architectures, ratios, seed)
        ),
        "with_same_subnet_elsewhere": max(others, key=abs, default=None),
        "with_subnet_before": metrics.spearman(ratios[1:], ratios[:-1]),
    }


def _most_within(ratios: Array) -> int:
    """Return how many measurements one prediction can come within 10 % of, at most."""
    ordered = np.sort(ratios)
    # The prediction p is near enough to r where r (1 - t) <= p <= r (1 + t).
    last = np.searchsorted(ordered, ordered * (1 + _TOLERANCE) / (1 - _TOLERANCE), side="right")
    return int((last - np.arange(len(ordered))).max())


def _tree_predictions(task: Task, architectures: Subnets, ratios: Array, seed: int) -> Array:
    """Predict residuals from architectures by XGBoost, each without its fold."""
    import xgboost

    columns = task.space.encode(architectures)
    residuals = np.log(ratios)
    residuals = np.clip(residuals, *np.quantile(residuals, [0.05, 0.95]))
    settings = {
        "max_depth": 4, "eta": 0.05, "subsample": 0.8, "colsample_bytree": 0.5, "max_bin": 64,
        "nthread": 1, "seed": seed,
    }  # fmt: skip
    found = np.empty(len(ratios))
    for rest, fold in _folds(len(ratios), seed + 1):
        data = xgboost.DMatrix(columns[rest], residuals[rest])
        booster = xgboost.train(settings, data, num_boost_round=150)
        found[fold] = booster.predict(xgboost.DMatrix(columns[fold]))
    return found


def _folds(count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (the others, the fold) of every fold."""
    parts = np.array_split(np.random.default_rng(seed).permutation(count), _NUM_FOLDS)
    return [(np.concatenate(parts[:i] + parts[i + 1 :]), part) for i, part in enumerate(parts)]
