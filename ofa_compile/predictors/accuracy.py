"""Predict the accuracy of subnets from their encoding, with numpy alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import ArchitectureError, ArtifactError, NotFittedError
from ofa_compile.space import Architecture, SearchSpace, search_space, search_spaces

__all__ = ["AccuracyPredictor"]

_SCHEMA_VERSION = 1
_BATCH = 1024  # hidden activations of 400 units stay within the second-level cache


class AccuracyPredictor:
    """Quadratic model on the architecture encoding, and an ensemble of MLPs on what it misses.

    Built by `ofa_compile.predictors.accuracy_fit.fit_accuracy`, or read by `load` and
    `load_embedded`.

    Attributes
    ----------
    space
        Search space whose architectures it predicts.
    report
        Size of the data set and errors on held-out subnets; empty if unknown.
    resolutions
        The space's resolutions that it has learnt; all of them unless given.
    """

    def __init__(
        self,
        space: SearchSpace,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
        report: Mapping[str, Any] | None = None,
        resolutions: Sequence[int] | None = None,
    ) -> None:
        self.space = space
        self.resolutions = tuple(space.resolutions if resolutions is None else resolutions)
        self.report: dict[str, Any] = dict(report or {})
        self._weights = {name: np.asarray(v, np.float32) for name, v in (weights or {}).items()}
        if weights is not None:
            self._check_weights()

    def _check_weights(self) -> None:
        """Check that the weights are there and fit the space's encoding."""
        size = self.space.encoding_size
        names = {"linear.weight", "scale"}
        for layer in self._layer_numbers():
            names |= {f"mlp.{layer}.weight", f"mlp.{layer}.bias"}
        missing = sorted(names - set(self._weights))
        found = self._weights["linear.weight"].shape if not missing else None
        if missing or found != (size,):
            what = f"lacks {', '.join(missing)}" if missing else f"has linear.weight of {found}"
            message = f"the accuracy predictor {what}; {self.space.name} needs ({size},)"
            raise ArtifactError(message, hint="Fit it again with `ofa-compile fit-accuracy`.")

    def _layer_numbers(self) -> list[int]:
        parts = {name.split(".")[1] for name in self._weights if name.startswith("mlp.")}
        return sorted(int(part) for part in parts)

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Predict the top-1 accuracy of each architecture.

        Parameters
        ----------
        architectures
            Members of `space`.

        Returns
        -------
        Fractions of shape (n_architectures,), in input order.

        Raises
        ------
        NotFittedError
            If the predictor holds no weights.
        ArchitectureError
            If an architecture belongs to another space, or its resolution is none that the
            predictor has learnt.
        """
        self._check_known(architectures)
        return self.predict_encoded(self.space.encode(architectures))

    def predict_encoded(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Predict from encodings of shape (n, encoding size); see `predict`."""
        mean: NDArray[np.float64] = self._members(codes).mean(axis=0)
        return mean

    def uncertainty(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Return the standard error expected of each prediction, of shape (n,).

        That is the spread of the ensemble's members and, where the report knows it, what
        cross-validation found them to miss together.
        """
        self._check_known(architectures)
        _, spread = self.mean_and_spread(self.space.encode(architectures))
        noise = float(self.report.get("residual_noise", 0.0))
        total: NDArray[np.float64] = np.sqrt(spread**2 + noise**2)
        return total

    def mean_and_spread(self, codes: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the members' predictions, each of shape (n,)."""
        members = self._members(codes)
        return members.mean(axis=0), members.std(axis=0)

    def _check_known(self, architectures: Sequence[Architecture]) -> None:
        """Refuse what the predictor knows nothing about."""
        for architecture in architectures:
            if architecture.space != self.space.name:
                message = (
                    f"the accuracy predictor is for {self.space.name}, "
                    f"the architecture for {architecture.space}"
                )
                raise ArchitectureError(message)
            if architecture.resolution not in self.resolutions:
                known = ", ".join(map(str, self.resolutions))
                message = (
                    f"the accuracy predictor has not learnt resolution {architecture.resolution}; "
                    f"it covers {known}"
                )
                raise ArchitectureError(message, hint="Choose one of them.")

    def _members(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Return each member's prediction, of shape (members, n)."""
        if not self._weights:
            message = "the accuracy predictor has not been fitted"
            raise NotFittedError(message, hint="Use `fit_accuracy`, `load` or `load_embedded`.")
        x = np.asarray(codes, np.float32).reshape(-1, self.space.encoding_size)
        parts = [self._forward(x[start : start + _BATCH]) for start in range(0, len(x), _BATCH)]
        if not parts:
            return np.empty((1, 0))
        scaled = np.concatenate(parts, axis=1).astype(np.float64)
        mean, std = (float(value) for value in self._weights["scale"])
        return np.clip(mean + std * scaled, 0.0, 1.0)

    def _forward(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the standardised predictions of all members for one batch."""
        linear = x @ self._weights["linear.weight"]
        if "pairs.weight" in self._weights:
            means = x @ self._weights["pairs.means"]
            linear = linear + ((means @ self._weights["pairs.weight"]) * means).sum(axis=1)
        numbers = self._layer_numbers()
        if not numbers:
            return linear[None]
        hidden = x[None]
        for number in numbers:
            weight = self._weights[f"mlp.{number}.weight"]
            hidden = hidden @ weight
            hidden += self._weights[f"mlp.{number}.bias"][:, None]
            if number != numbers[-1]:
                np.maximum(hidden, 0.0, out=hidden)
        return linear[None] + hidden[:, :, 0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the predictor as safetensors; a reader sees the old file or the new one.

        Raises
        ------
        NotFittedError
            If there is nothing to write.
        ArtifactError
            If the file cannot be written.
        """
        from safetensors.numpy import save

        if not self._weights:
            message = "the accuracy predictor has not been fitted: nothing to save"
            raise NotFittedError(message)
        header = {
            "schema_version": str(_SCHEMA_VERSION),
            "space": self.space.name,
            "report": json.dumps(self.report, sort_keys=True),
            "resolutions": json.dumps(self.resolutions),
        }
        target = Path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as staging:
                staging.write_bytes(save(self._weights, metadata=header))
        except OSError as error:
            message = f"cannot write the accuracy predictor to {target}: {error}"
            raise ArtifactError(message) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a predictor.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged, of another schema version or for an unknown space.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                header = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError) as err:
            message = f"cannot read the accuracy predictor {path}: {err}"
            raise ArtifactError(message, hint="Write one with `ofa-compile fit-accuracy`.") from err
        version, name = header.get("schema_version"), header.get("space")
        if version != str(_SCHEMA_VERSION) or name not in search_spaces():
            message = (
                f"{path} has schema version {version!r} and space {name!r}; "
                f"expected {_SCHEMA_VERSION} and one of {', '.join(search_spaces())}"
            )
            raise ArtifactError(message, hint="Fit it again with `ofa-compile fit-accuracy`.")
        space = search_space(name)
        report = json.loads(header.get("report", "{}"))
        resolutions = json.loads(header.get("resolutions", "null"))
        if resolutions is not None and not set(resolutions) <= set(space.resolutions):
            message = f"{path} covers the resolutions {resolutions}, some of which {name} lacks"
            raise ArtifactError(message, hint="Fit it again with `ofa-compile fit-accuracy`.")
        return cls(space, weights, report, resolutions)

    @classmethod
    def load_embedded(cls, space_name: str) -> Self:
        """Read the predictor that ships with the package for a space.

        Raises
        ------
        ArtifactError
            If none ships for that space.
        """
        resource = files("ofa_compile.weights") / f"{space_name}.accuracy.safetensors"
        if not resource.is_file():
            message = f"no accuracy predictor ships for {space_name!r}"
            hint = "Evaluate subnets with `ofa-compile evaluate`, then `ofa-compile fit-accuracy`."
            raise ArtifactError(message, hint=hint)
        return cls.load(str(resource))
