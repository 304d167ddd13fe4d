"""What fitting a latency predictor learns, and predicting with it: numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.features import FeatureBatch
from ofa_compile.predictors.latency_base import LatencyBase
from ofa_compile.predictors.robust_ridge import Array
from ofa_compile.predictors.trees import TreeEnsemble


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """A fitted model.

    Attributes
    ----------
    base
        The linear part.
    booster
        The trees as xgboost's own JSON; None if nothing of them is applied.
    share
        Share of the trees' correction that is applied.
    scale
        Robust standard deviation of the cross-validated relative errors.
    center, whitening
        Mean and inverse covariance of the fitted architectures' summary features.
    resolutions
        The smallest and the largest fitted.
    num_samples
        Architectures fitted on.
    floor_ms
        No base prediction is below this.
    report
        The report of the fit.
    """

    base: LatencyBase
    booster: dict[str, Any] | None
    share: float
    scale: float
    center: Array
    whitening: Array
    resolutions: tuple[int, int]
    num_samples: int
    floor_ms: float
    report: dict[str, Any]

    def __post_init__(self) -> None:
        trees = TreeEnsemble.from_xgboost_json(self.booster) if self.booster else None
        object.__setattr__(self, "_trees", trees)

    def predict(self, batch: FeatureBatch) -> Array:
        """Return base times correction in milliseconds, of shape (n,)."""
        base_ms = np.maximum(self.base.predict(batch), self.floor_ms)
        trees: TreeEnsemble | None = getattr(self, "_trees", None)
        if trees is None:
            return base_ms
        return base_ms * np.exp(self.share * trees.predict(tree_columns(batch, base_ms)))

    def uncertainty(self, batch: FeatureBatch) -> Array:
        """Return the relative standard deviation to expect, of shape (n,)."""
        away = batch.summary - self.center
        leverage = np.einsum("ni,ij,nj->n", away, self.whitening, away) / self.num_samples
        deviation: Array = self.scale * np.sqrt(1.0 + np.maximum(leverage, 0.0))
        return deviation

    def to_dict(self) -> dict[str, Any]:
        """Return the model as JSON values."""
        return {
            "base": self.base.to_dict(),
            "booster": self.booster,
            "share": self.share,
            "scale": self.scale,
            "center": self.center.tolist(),
            "whitening": self.whitening.tolist(),
            "resolutions": list(self.resolutions),
            "num_samples": self.num_samples,
            "floor_ms": self.floor_ms,
            "report": self.report,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> LatencyModel:
        """Read a model back; a KeyError, TypeError or ValueError says that it is none."""
        low, high = document["resolutions"]
        return cls(
            base=LatencyBase.from_dict(document["base"]),
            booster=document["booster"],
            share=float(document["share"]),
            scale=float(document["scale"]),
            center=np.array(document["center"], dtype=np.float64),
            whitening=np.array(document["whitening"], dtype=np.float64),
            resolutions=(int(low), int(high)),
            num_samples=int(document["num_samples"]),
            floor_ms=float(document["floor_ms"]),
            report=document["report"],
        )


def tree_columns(batch: FeatureBatch, base_ms: Array) -> NDArray[np.float32]:
    """Return what the trees see: totals, shape, anchors, and the base's own prediction."""
    columns = [batch.summary, batch.anchors, base_ms[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)
