"""Latency predictor: a robust linear base on analytic features and an XGBoost residual.

The base carries what is known about networks (time grows with work), so few samples suffice; the
trees correct what is not linear in it. How much of their correction to apply is cross-validated:
nothing of it where noise is all that is left. xgboost is needed for fitting only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ofa_compile.errors import (
    ArchitectureError,
    ArtifactError,
    DataError,
    MissingDependencyError,
    NotFittedError,
)
from ofa_compile.predictors import metrics
from ofa_compile.predictors.features import FEATURES, FeatureBatch, LatencyFeatures, chunks
from ofa_compile.predictors.latency_base import LatencyBase
from ofa_compile.predictors.latency_model import LatencyModel, tree_columns
from ofa_compile.predictors.robust_ridge import Array, robust_scale
from ofa_compile.predictors.slot_tables import Indices
from ofa_compile.predictors.trees import TreeEnsemble
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

SCHEMA_VERSION = 1
MIN_SAMPLES = 10

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
class LatencyFitReport:
    """How good a fit is on samples it was not fitted on (cross-validated).

    Attributes
    ----------
    num_samples
        Subnets fitted on.
    variant, alpha
        Which columns the linear base sees, and its penalty.
    residual_share
        Share of the trees' correction that is applied.
    cross_validated
        Figures of `metrics.summary` over the folds.
    base_cross_validated
        The same with the linear base alone.
    """

    num_samples: int
    variant: str
    alpha: float
    residual_share: float
    cross_validated: dict[str, float]
    base_cross_validated: dict[str, float]


class LatencyPredictor:
    """Predict the median batch-1 latency of the architectures of one space on one target.

    Parameters
    ----------
    space
        The search space, or its name.
    kind
        What it is fitted on; whatever it predicts carries this.
    target, target_fingerprint
        The hardware target that the latencies belong to.
    statistic
        What of each subnet's runs the latencies are: their median, or their 95th percentile.
    config
        Settings of the residual.
    """

    def __init__(
        self,
        space: SearchSpace | str,
        *,
        kind: Literal["measurement", "estimate"] = "measurement",
        target: str = "",
        target_fingerprint: str = "",
        statistic: Literal["median", "p95"] = "median",
        config: LatencyPredictorConfig | None = None,
    ) -> None:
        self.space = search_space(space) if isinstance(space, str) else space
        self.kind: Literal["measurement", "estimate"] = kind
        self.target = target
        self.target_fingerprint = target_fingerprint
        self.statistic: Literal["median", "p95"] = statistic
        self.config = config or LatencyPredictorConfig()
        self._features = LatencyFeatures(self.space)
        self._model: LatencyModel | None = None

    def fit(
        self, architectures: Sequence[Architecture], latencies_ms: ArrayLike
    ) -> LatencyFitReport:
        """Fit base and residual.

        Parameters
        ----------
        architectures
            Members of the space, at resolutions of the space.
        latencies_ms
            Their latencies, of shape (n_architectures,).

        Raises
        ------
        DataError
            If there are fewer than `MIN_SAMPLES`, or a latency is no positive number.
        ArchitectureError
            If an architecture lies outside the space.
        """
        target = np.asarray(latencies_ms, dtype=np.float64)
        if target.shape != (len(architectures),) or len(target) < MIN_SAMPLES:
            msg = (
                f"a latency predictor needs one latency for each of at least {MIN_SAMPLES} "
                f"architectures, got {len(architectures)} architectures and shape {target.shape}"
            )
            raise DataError(msg, hint="measure more subnets")
        if not np.isfinite(target).all() or (target <= 0).any():
            msg = "a latency is not a positive number"
            raise DataError(msg, hint="drop failed measurements before fitting")
        indices = self.space.indices(architectures)
        batch = self._features.batch(indices)
        share, fold_base, fold_full = self._cross_validate(batch, target)
        base, ridge = LatencyBase.fit_best(batch, target)
        booster = None
        if share > 0:
            booster = self._fit_residual(batch, base, _residual(ridge.loo_errors))
        center = batch.summary.mean(axis=0)
        report = LatencyFitReport(
            num_samples=len(target),
            variant=base.variant,
            alpha=ridge.alpha,
            residual_share=share,
            cross_validated=metrics.summary(target, fold_full),
            base_cross_validated=metrics.summary(target, fold_base),
        )
        resolutions = np.array(self.space.resolutions)[indices[:, 0]]
        self._model = LatencyModel(
            base=base,
            booster=booster,
            share=share,
            scale=robust_scale(fold_full / target - 1.0),
            center=center,
            whitening=np.linalg.pinv(np.cov((batch.summary - center).T), rcond=1e-9),
            resolutions=(int(resolutions.min()), int(resolutions.max())),
            num_samples=len(target),
            floor_ms=0.25 * float(target.min()),
            report=asdict(report),
        )
        return report

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Predict the median batch-1 latency of each architecture on this predictor's target.

        Parameters
        ----------
        architectures
            Members of the search space the predictor was fitted on.

        Returns
        -------
        Latencies in milliseconds, of shape (n_architectures,), in input order.

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ArchitectureError
            If an architecture lies outside the search space, or its resolution outside the range
            that was fitted.
        """
        model = self._fitted()
        for architecture in architectures:
            self._check_resolution(architecture.resolution, model)
        return self.predict_indices(self.space, self.space.indices(architectures))

    def predict_indices(self, space: SearchSpace, indices: Indices) -> NDArray[np.float64]:
        """Predict architectures given as choice indices, of shape (n, genes).

        Raises
        ------
        NotFittedError
            If `fit` has not been called.
        ArchitectureError
            If the indices are of another space.
        """
        model = self._fitted()
        if space.name != self.space.name:
            msg = f"this latency predictor is for {self.space.name}, not {space.name}"
            raise ArchitectureError(msg, hint="fit one on measurements of that space")
        with_slots = len(model.base.slots) > 0
        parts = [
            model.predict(self._features.batch(part, with_slots=with_slots))
            for part in chunks(indices)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def uncertainty(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the relative standard deviation to expect of each prediction, of shape (n,).

        It is the cross-validated deviation, widened for architectures unlike the fitted ones.
        """
        model = self._fitted()
        indices = self.space.indices(architectures)
        return model.uncertainty(self._features.batch(indices, with_slots=False))

    @property
    def report(self) -> dict[str, Any]:
        """The report of the fit, as plain values."""
        return self._fitted().report

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The space's resolutions within the range that was fitted."""
        low, high = self._fitted().resolutions
        return tuple(value for value in self.space.resolutions if low <= value <= high)

    def save(self, path: Path | str) -> None:
        """Write the predictor as JSON; a reader sees the old file or the new one, never a part."""
        model = self._fitted()
        document = {
            "schema_version": SCHEMA_VERSION,
            "type": "latency_predictor",
            "space": self.space.name,
            "kind": self.kind,
            "target": self.target,
            "target_fingerprint": self.target_fingerprint,
            "statistic": self.statistic,
            "features": list(FEATURES),
            "config": asdict(self.config),
            "model": model.to_dict(),
        }
        destination = Path(path)
        staging = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            staging.write_text(json.dumps(document), encoding="utf-8")
            staging.replace(destination)
        except OSError as error:
            with contextlib.suppress(OSError):
                staging.unlink(missing_ok=True)
            msg = f"cannot write the latency predictor to {destination}: {error}"
            raise ArtifactError(msg) from error

    @classmethod
    def load(cls, path: Path | str) -> LatencyPredictor:
        """Read a predictor that `save` wrote.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged, or of another schema version.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            is_ours = document["type"] == "latency_predictor"
            if not is_ours or document["schema_version"] != SCHEMA_VERSION:
                msg = f"{path} is no latency predictor of schema version {SCHEMA_VERSION}"
                raise ArtifactError(msg, hint="run fit-latency again")
            return cls._from_document(document)
        except OSError as error:
            msg = f"cannot read the latency predictor {path}: {error}"
            raise ArtifactError(msg, hint="run fit-latency first") from error
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{path} holds no latency predictor: {error!r}"
            raise ArtifactError(msg, hint="run fit-latency again") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> LatencyPredictor:
        """Build a predictor from what `save` wrote."""
        if tuple(document["features"]) != FEATURES:
            msg = "its features are not those of this version"
            raise ValueError(msg)
        predictor = cls(
            str(document["space"]),
            kind=document["kind"],
            target=str(document["target"]),
            target_fingerprint=str(document["target_fingerprint"]),
            statistic=document.get("statistic", "median"),
            config=LatencyPredictorConfig(**document["config"]),
        )
        predictor._model = LatencyModel.from_dict(document["model"])
        return predictor

    def _fitted(self) -> LatencyModel:
        """Return the model, or say that there is none yet."""
        if self._model is None:
            msg = "this latency predictor is not fitted"
            raise NotFittedError(
                msg, hint="call fit() with measured subnets, or load() a saved one"
            )
        return self._model

    def _check_resolution(self, resolution: int, model: LatencyModel) -> None:
        """Refuse resolutions outside the data."""
        low, high = model.resolutions
        if not low <= resolution <= high:
            msg = (
                f"resolution {resolution} lies outside the data of this latency predictor, "
                f"which was fitted on {low} to {high}"
            )
            raise ArchitectureError(msg, hint="measure subnets at that resolution and fit again")

    def _cross_validate(self, batch: FeatureBatch, target: Array) -> tuple[float, Array, Array]:
        """Choose the residual's share; return it with the folds' predictions without and with."""
        order = np.random.default_rng(self.config.seed).permutation(len(target))
        base_ms, correction = np.empty(len(target)), np.zeros(len(target))
        for fold in np.array_split(order, _NUM_FOLDS):
            rest = np.setdiff1d(order, fold)
            train, test = _subset(batch, rest), _subset(batch, fold)
            base, ridge = LatencyBase.fit_best(train, target[rest])
            base_ms[fold] = np.maximum(base.predict(test), 0.25 * target[rest].min())
            if self.config.use_residual:
                residual = _residual(ridge.loo_errors)
                booster = self._fit_residual(train, base, residual)
                trees = TreeEnsemble.from_xgboost_json(booster)
                correction[fold] = trees.predict(tree_columns(test, base_ms[fold]))
        clip = _CLIP_DEVIATIONS * robust_scale(base_ms / target - 1.0)
        errors = [
            float(
                np.minimum(np.abs(base_ms * np.exp(share * correction) / target - 1), clip).mean()
            )
            for share in _SHARES
        ]
        share = _SHARES[int(np.argmin(errors))] if self.config.use_residual else 0.0
        return share, base_ms, base_ms * np.exp(share * correction)

    def _fit_residual(
        self, batch: FeatureBatch, base: LatencyBase, residual: Array
    ) -> dict[str, Any]:
        """Fit trees to the base's leave-one-out residuals; return xgboost's own JSON."""
        try:
            import xgboost
        except ImportError as error:
            msg = "fitting a latency predictor needs xgboost"
            raise MissingDependencyError(msg, hint="pip install xgboost-cpu") from error
        config = self.config
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
        data = xgboost.DMatrix(columns, residual)
        booster = xgboost.train(parameters, data, num_boost_round=config.num_rounds)
        document: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))
        return document


def _residual(loo_errors: Array) -> Array:
    """Return the logarithm of target over leave-one-out prediction, outliers clipped."""
    residual = -np.log(np.maximum(1.0 + loo_errors, 0.05))
    clip = _CLIP_DEVIATIONS * robust_scale(residual)
    return np.clip(residual, -clip, clip)


def _subset(batch: FeatureBatch, rows: NDArray[np.int64]) -> FeatureBatch:
    """Return some rows of a batch."""
    return FeatureBatch(batch.totals[rows], batch.shape[rows], batch.per_slot[rows])
