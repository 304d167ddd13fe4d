"""Which predictors judge the subnets of a target, and the search among them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ofa_compile.errors import UserInputError
from ofa_compile.hardware.precision import as_options
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.options import LimitOptions, default_workspace
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import SearchSpace

if TYPE_CHECKING:
    from ofa_compile.predictors.accuracy import AccuracyPredictor
    from ofa_compile.predictors.estimate import LatencyEstimator
    from ofa_compile.predictors.latency import LatencyPredictor
    from ofa_compile.search.search import SearchResult

_LOGGER = logging.getLogger(__name__)


LatencyStatistic = Literal["median", "p95"]


def latency_predictor_path(
    workspace: Path, space: str, statistic: LatencyStatistic = "median", batch: int = 1
) -> Path:
    """Return where `fit-latency` keeps a predictor, and `search` and `compile` look for it."""
    suffix = "" if statistic == "median" else f"-{statistic}"
    suffix += "" if batch == 1 else f"-batch{batch}"
    return workspace / f"latency-{space}{suffix}.json"


def load_accuracy_predictor(space: SearchSpace, path: Path | None) -> AccuracyPredictor:
    """Load an accuracy predictor from a file, or the one embedded for the space.

    Raises
    ------
    UserInputError
        If there is no file and none ships for the space.
    """
    from ofa_compile.predictors.accuracy import AccuracyPredictor

    if path is not None:
        return AccuracyPredictor.load(path)
    return AccuracyPredictor.load_embedded(space.name)


def load_latency_predictor(
    target: TargetSpec,
    space: SearchSpace,
    path: Path | None,
    workspace: Path | None,
    *,
    statistic: LatencyStatistic = "median",
    batch: int = 1,
) -> LatencyPredictor | LatencyEstimator:
    """Load the latency predictor given or fitted for the target; without one, estimate.

    Raises
    ------
    UserInputError
        If the predictor was fitted for another target, statistic or batch, or none of that
        statistic or batch exists: an estimate has no spread, and is of one image.
    """
    folder = workspace or default_workspace(target.name)
    found = path or latency_predictor_path(folder, space.name, statistic, batch)
    if path is None and not found.is_file():
        if statistic != "median" or batch != 1:
            message = (
                f"there is no predictor of the {statistic} latency of batch {batch} at {found}"
            )
            options = "" if statistic == "median" else f" --statistic {statistic}"
            options += "" if batch == 1 else f" --batch {batch}"
            hint = f"ofa-compile fit-latency {as_options(target)}{options}"
            raise UserInputError(message, hint=hint)
        _LOGGER.info("no latency predictor at %s: latency is an estimate", found)
        from ofa_compile.predictors.estimate import LatencyEstimator

        return LatencyEstimator(target)
    from ofa_compile.predictors.latency import LatencyPredictor

    predictor = LatencyPredictor.load(found)
    if predictor.target_fingerprint != target.fingerprint:
        message = f"{found} was fitted for another target than '{target.name}'"
        hint = f"measure and fit again: ofa-compile measure {as_options(target)}"
        raise UserInputError(message, hint=hint)
    if predictor.statistic != statistic:
        message = f"{found} predicts the {predictor.statistic} latency, not the {statistic}"
        raise UserInputError(message, hint=f"--latency-statistic {predictor.statistic}")
    if predictor.batch != batch:
        message = f"{found} predicts the latency of batch {predictor.batch}, not {batch}"
        raise UserInputError(message, hint=f"--batch {predictor.batch}")
    return predictor


def search_subnets(
    space: SearchSpace,
    target: TargetSpec,
    limits: LimitOptions,
    *,
    batch: int = 1,
    seed: int = 0,
    progress: ProgressCallback = no_progress,
) -> SearchResult:
    """Search a space under limits with the predictors that belong to a target."""
    from ofa_compile.search.search import search

    accuracy = load_accuracy_predictor(space, limits.accuracy_predictor)
    latency = load_latency_predictor(
        target, space, limits.latency_predictor, limits.workspace, batch=batch
    )
    return search(
        space,
        accuracy=accuracy,
        latency=latency,
        max_latency_ms=limits.max_latency_ms,
        max_macs=limits.max_macs,
        max_parameters=limits.max_parameters,
        max_size_bytes=limits.max_size_bytes,
        max_activation_bytes=limits.max_activation_bytes,
        resolution=limits.resolution,
        seed=seed,
        progress=lambda done, total: progress("searching", done, total),
    )
