"""Fit the accuracy predictor on evaluated subnets, and state its errors on others."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import DataError
from ofa_compile.predictors import metrics
from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.predictors.accuracy_basis import Basis, basis_of
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord, read_records
from ofa_compile.predictors.accuracy_mlp import FitConfig, fit_weights
from ofa_compile.predictors.accuracy_views import mean_over_views, views_of
from ofa_compile.space import Architecture, SearchSpace

__all__ = ["AccuracyData", "FitConfig", "collect", "fit_accuracy", "fit_records"]

_LOGGER = logging.getLogger(__name__)
_MIN_SUBNETS = 20
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class AccuracyData:
    """What a fit needs of an accuracy data set.

    Attributes
    ----------
    space
        Search space.
    codes
        Encodings of shape (n, encoding size).
    by_view
        Accuracies on each view of the images, of shape (n, views); NaN where unknown.
    group
        Of each subnet, what it shares with others of its family: resolution and first stage.
    repeats
        Pairs of top-1 of one subnet with different calibration images, of shape (m, 2).
    num_images
        Images behind each accuracy.
    supernet
        Hash of the supernet's weights.
    """

    space: SearchSpace
    codes: NDArray[np.float32]
    by_view: Floats
    group: NDArray[np.int64]
    repeats: Floats
    num_images: int
    supernet: str

    @property
    def is_tested(self) -> NDArray[np.bool_]:
        """Which subnets have all views: errors are stated for them, for they have least noise."""
        return np.asarray(~np.isnan(self.by_view).any(axis=1))

    @property
    def tested_top1(self) -> Floats:
        """Accuracies of those, means over the views."""
        mean: Floats = self.by_view[self.is_tested].mean(axis=1)
        return mean

    def targets(self, rows: NDArray[Any]) -> Floats:
        """Return what to fit some subnets to, from their own accuracies and no others'."""
        return mean_over_views(self.codes[rows], self.by_view[rows], basis_of(self.space))


def fit_accuracy(
    dataset_path: str | os.PathLike[str],
    space: SearchSpace,
    *,
    config: FitConfig | None = None,
    data: str = "train-held-out",
) -> tuple[AccuracyPredictor, dict[str, Any]]:
    """Fit an accuracy predictor on a data set written by `evaluate_architectures`.

    Parameters
    ----------
    dataset_path
        JSON Lines file.
    space
        Search space; records of other spaces are an error.
    config
        Settings; None for the defaults.
    data
        Which records to use, by what they were evaluated on.

    Returns
    -------
    The predictor, and its report: number of subnets and, from cross-validation over all of them,
    on those that have all views, rmse (fraction), kendall_tau, spearman and
    r_squared; noise_floor where subnets were repeated.

    Raises
    ------
    DataError
        If the file is missing or malformed, mixes supernets, or holds too few subnets.
    """
    return fit_records(read_part(dataset_path, data), space, config=config or FitConfig())


def read_part(dataset_path: str | os.PathLike[str], data: str) -> list[AccuracyRecord]:
    """Read the records that were evaluated on `data`; the file must exist."""
    path = Path(dataset_path)
    if not path.is_file():
        message = f"accuracy data set {path} does not exist"
        raise DataError(message, hint="Write one with `ofa-compile evaluate`.")
    return [record for record in read_records(path) if record.data == data]


def fit_records(
    records: list[AccuracyRecord], space: SearchSpace, *, config: FitConfig
) -> tuple[AccuracyPredictor, dict[str, Any]]:
    """Fit on records in memory; see `fit_accuracy`."""
    data = collect(records, space)
    basis = basis_of(space)
    predicted, spread = cross_validate(data, model_of(config, space, basis), config)
    tested = data.is_tested
    missed = float(np.mean((data.tested_top1 - predicted[tested]) ** 2))
    top1 = data.targets(np.ones(len(tested), bool))
    sampling = top1 * (1.0 - top1) / data.num_images
    report = {
        "num_subnets": len(top1),
        "num_images": data.num_images,
        "supernet": data.supernet,
        "folds": config.folds,
        "num_tested": int(tested.sum()),
        "num_views": data.by_view.shape[1],
        **errors(data.tested_top1, predicted[tested]),
        "top1_range": [float(top1.min()), float(top1.max())],
        "sampling_noise": float(np.sqrt(sampling.mean())),
        # What the members agree on and yet miss; `uncertainty` adds it to their spread.
        "residual_noise": max(0.0, missed - float(np.mean(spread[tested] ** 2))) ** 0.5,
    }
    if len(data.repeats) > 0:
        report["noise_floor"] = {
            "repeated_subnets": len(data.repeats),
            **errors(data.repeats[:, 0], data.repeats[:, 1]),
        }
    weights = fit_weights(data.codes, top1, basis, config)
    return AccuracyPredictor(space, weights, report), report


def errors(actual: Floats, predicted: Floats) -> dict[str, float]:
    """Return the figures that every report states."""
    residual = actual - predicted
    return {
        "rmse": metrics.rmse(actual, predicted),
        "kendall_tau": metrics.kendall_tau(actual, predicted),
        "spearman": metrics.spearman(actual, predicted),
        "r_squared": float(1.0 - np.mean(residual**2) / max(float(np.var(actual)), 1e-12)),
    }


def collect(records: list[AccuracyRecord], space: SearchSpace) -> AccuracyData:
    """Check records and bring them into the form that fits need.

    Records on another number of images than most are left out, which is logged; of several choices
    of calibration images, the first one of a view counts. See `views_of` for views.

    Raises
    ------
    DataError
        If there are other spaces' records, several supernets' or too few.
    """
    others = sorted({r.architecture.space for r in records} - {space.name})
    if others:
        message = f"the data set holds subnets of {', '.join(others)}, not only of {space.name}"
        raise DataError(message)
    supernets = sorted({r.supernet for r in records})
    if len(supernets) > 1:
        short = ", ".join(name[:12] for name in supernets)
        message = f"the data set mixes subnets of {len(supernets)} supernets: {short}"
        raise DataError(message, hint="Keep one data set per supernet.")
    setups = Counter((r.num_images, r.num_calibration_images) for r in records)
    usual = setups.most_common(1)[0][0] if setups else (0, 0)
    if len(setups) > 1:
        left_out = len(records) - setups[usual]
        _LOGGER.warning("left out %d records not on %d images", left_out, usual[0])
    used = [r for r in records if (r.num_images, r.num_calibration_images) == usual]
    used.sort(key=lambda r: r.calibration_seed)
    first: dict[tuple[Architecture, int], AccuracyRecord] = {}
    for record in used:
        first.setdefault((record.architecture, record.view), record)
    architectures, by_view = views_of({key: record.top1 for key, record in first.items()})
    count = len(architectures)
    if count < _MIN_SUBNETS:
        message = f"{count} evaluated subnets are too few; at least {_MIN_SUBNETS} are needed"
        raise DataError(message, hint="Evaluate more with `ofa-compile evaluate --count`.")
    pairs = [
        (first[r.architecture, r.view].top1, r.top1)
        for r in used
        if r.calibration_seed != first[r.architecture, r.view].calibration_seed
    ]
    return AccuracyData(
        space=space,
        codes=space.encode(architectures),
        by_view=by_view,
        group=_groups(space, space.indices(architectures)),
        repeats=np.array(pairs).reshape(-1, 2),
        num_images=usual[0],
        supernet=supernets[0],
    )


def _groups(space: SearchSpace, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number per subnet: that of its choices in what a family shares."""
    depths = {gene.name for gene in space.genes if gene.name.startswith("depth.") and gene.stage}
    columns = [i for i, g in enumerate(space.genes) if g.stage <= 0 and g.name not in depths]
    return np.unique(indices[:, columns], axis=0, return_inverse=True)[1].reshape(-1)


# Fits on encodings and accuracies; returns what predicts (mean, spread of members) of encodings.
Predict = Callable[[NDArray[np.float32]], tuple[Floats, Floats]]
Model = Callable[[NDArray[np.float32], Floats], Predict]


def model_of(config: FitConfig, space: SearchSpace, basis: Basis) -> Model:
    """Return how a configuration of the predictor fits."""

    def fit(codes: NDArray[np.float32], top1: Floats) -> Predict:
        predictor = AccuracyPredictor(space, fit_weights(codes, top1, basis, config))
        return predictor.mean_and_spread

    return fit


def cross_validate(data: AccuracyData, model: Model, config: FitConfig) -> tuple[Floats, Floats]:
    """Predict every subnet by a model that has seen none of its family.

    Returns
    -------
    Predictions, and the spread of the ensemble's members.
    """
    rng = np.random.default_rng(config.seed)
    fold = (rng.permutation(data.group.max() + 1) % config.folds)[data.group]
    predicted, spread = np.empty((2, len(data.codes)))
    for k in range(config.folds):
        seen, held = fold != k, fold == k
        if held.any():
            predict = model(data.codes[seen], data.targets(seen))
            predicted[held], spread[held] = predict(data.codes[held])
    return predicted, spread
