"""Latency predictor: a robust linear base on analytic features and an XGBoost residual.

The base carries what is known about networks (time grows with work), so few samples suffice; the
trees correct what is not linear in it. How much of their correction to apply is cross-validated:
nothing of it where noise is all that is left. xgboost is needed for fitting only.

Fewer samples still suffice with an anchor: the sum of the kernels' tuned times, or the predictor of
a similar device.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import ArchitectureError, ArtifactError, DataError, NotFittedError
from ofa_compile.predictors import metrics
from ofa_compile.predictors.features import FEATURES, FeatureBatch, LatencyFeatures, chunks
from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.latency_base import LatencyBase
from ofa_compile.predictors.latency_model import LatencyModel
from ofa_compile.predictors.latency_residual import (
    LatencyPredictorConfig,
    cross_validate,
    fit_residual,
)
from ofa_compile.predictors.robust_ridge import robust_scale
from ofa_compile.predictors.slot_tables import Indices
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

SCHEMA_VERSION = 2
MIN_SAMPLES = 10


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
    batch
        Images of one run.
    kernel_times
        Measured times of the space's kernels on the target.
    prior
        Fitted predictor of a similar target, to start from where measurements are few.
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
        batch: int = 1,
        kernel_times: KernelTimes | None = None,
        prior: LatencyPredictor | None = None,
        config: LatencyPredictorConfig | None = None,
    ) -> None:
        self.space = search_space(space) if isinstance(space, str) else space
        self.kind: Literal["measurement", "estimate"] = kind
        self.target = target
        self.target_fingerprint = target_fingerprint
        self.statistic: Literal["median", "p95"] = statistic
        self.batch = batch
        self.config = config or LatencyPredictorConfig()
        self.kernel_times, self.prior = kernel_times, prior
        other = None if prior is None else partial(prior.predict_indices, self.space)
        self._features = LatencyFeatures(self.space, kernel_times, other)
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
        if self.prior is not None:
            self.prior.predict(architectures)  # or its error: a resolution it knows nothing of
        indices = self.space.indices(architectures)
        batch = self._features.batch(indices)
        folds = cross_validate(batch, target, self.config)
        base, ridge = LatencyBase.fit_best(batch, target)
        booster = None
        if folds.share > 0:
            booster = fit_residual(batch, base, ridge.loo_errors, self.config)
        center = batch.summary.mean(axis=0)
        report = LatencyFitReport(
            num_samples=len(target),
            variant=base.variant,
            alpha=ridge.alpha,
            residual_share=folds.share,
            cross_validated=metrics.summary(target, folds.full_ms),
            base_cross_validated=metrics.summary(target, folds.base_ms),
        )
        # A prior's data reach further than the few subnets that adapt it.
        known = () if self.prior is None else self.prior.resolutions
        resolutions = np.array([*known, *np.array(self.space.resolutions)[indices[:, 0]]])
        self._model = LatencyModel(
            base=base,
            booster=booster,
            share=folds.share,
            scale=robust_scale(folds.full_ms / target - 1.0),
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
        with_slots = model.base.uses_slots
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

    def features(self, architectures: Sequence[Architecture]) -> FeatureBatch:
        """Return what the predictor sees of architectures."""
        return self._features.batch(self.space.indices(architectures))

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
        document = self._document()
        destination = Path(path)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            with replacing(destination) as staging:
                staging.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            msg = f"cannot write the latency predictor to {destination}: {error}"
            raise ArtifactError(msg) from error

    def _document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        model = self._fitted()
        return {
            "schema_version": SCHEMA_VERSION,
            "type": "latency_predictor",
            "space": self.space.name,
            "kind": self.kind,
            "target": self.target,
            "target_fingerprint": self.target_fingerprint,
            "statistic": self.statistic,
            "batch": self.batch,
            "features": list(FEATURES),
            "config": asdict(self.config),
            "model": model.to_dict(),
            "kernel_times": self.kernel_times.to_dict() if self.kernel_times else None,
            "prior": self.prior._document() if self.prior else None,
        }

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
        space = search_space(str(document["space"]))
        times, prior = document["kernel_times"], document["prior"]
        predictor = cls(
            space,
            kind=document["kind"],
            target=str(document["target"]),
            target_fingerprint=str(document["target_fingerprint"]),
            statistic=document["statistic"],
            batch=int(document.get("batch", 1)),
            kernel_times=KernelTimes.from_dict(space, times) if times else None,
            prior=cls._from_document(prior) if prior else None,
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
