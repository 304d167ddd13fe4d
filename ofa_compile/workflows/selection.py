"""Which predictors judge the subnets of a target, and the search among them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.errors import UserInputError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import LimitOptions, SearchOptions, default_workspace
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import SearchSpace, search_space

if TYPE_CHECKING:
    from ofa_compile.predictors.accuracy import AccuracyPredictor
    from ofa_compile.predictors.estimate import LatencyEstimator
    from ofa_compile.predictors.latency import LatencyPredictor
    from ofa_compile.search.search import SearchResult

_LOGGER = logging.getLogger(__name__)


def latency_predictor_path(workspace: Path, space: str) -> Path:
    """Return where `fit-latency` keeps a predictor, and `search` and `compile` look for it."""
    return workspace / f"latency-{space}.json"


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
    target: TargetSpec, space: SearchSpace, path: Path | None, workspace: Path | None
) -> LatencyPredictor | LatencyEstimator:
    """Load the latency predictor given or fitted for the target; without one, estimate.

    Raises
    ------
    UserInputError
        If the predictor was fitted for another target.
    """
    from ofa_compile.predictors.estimate import LatencyEstimator
    from ofa_compile.predictors.latency import LatencyPredictor

    found = path or latency_predictor_path(workspace or default_workspace(target.name), space.name)
    if path is None and not found.is_file():
        _LOGGER.info("no latency predictor at %s: latency is an estimate", found)
        return LatencyEstimator(target)
    predictor = LatencyPredictor.load(found)
    if predictor.target_fingerprint != target.fingerprint:
        message = f"{found} was fitted for another target than '{target.name}'"
        hint = f"measure and fit again: ofa-compile measure --target {target.name}"
        raise UserInputError(message, hint=hint)
    return predictor


def search_subnets(
    space: SearchSpace,
    target: TargetSpec,
    limits: LimitOptions,
    *,
    seed: int = 0,
    progress: ProgressCallback = no_progress,
    **sizes: int | None,
) -> SearchResult:
    """Search a space under limits with the predictors that belong to a target."""
    from ofa_compile.search.config import EvolutionConfig
    from ofa_compile.search.search import search

    accuracy = load_accuracy_predictor(space, limits.accuracy_predictor)
    latency = load_latency_predictor(target, space, limits.latency_predictor, limits.workspace)
    return search(
        space,
        accuracy=accuracy,
        latency=latency,
        max_latency_ms=limits.max_latency_ms,
        max_macs=limits.max_macs,
        max_size_bytes=limits.max_size_bytes,
        max_activation_bytes=limits.max_activation_bytes,
        resolution=limits.resolution,
        seed=seed,
        config=EvolutionConfig(**{k: v for k, v in sizes.items() if v is not None}),
        progress=lambda done, total: progress("searching", done, total),
    )


def search_target(options: SearchOptions, progress: ProgressCallback = no_progress) -> SearchResult:
    """Search as `ofa-compile search` does, and write the front if an output folder is given."""
    target = load_target(options.target)
    space = search_space(options.space)
    result = search_subnets(
        space,
        target,
        options,
        seed=options.seed,
        progress=progress,
        population=options.population,
        generations=options.generations,
    )
    if options.output is not None:
        _write_front(result, options.output)
    return result


def front_document(result: SearchResult) -> dict[str, Any]:
    """Return a search result as JSON-ready data."""
    return {
        "cost": result.cost_name,
        "num_evaluated": result.num_evaluated,
        "seconds": round(result.seconds, 3),
        "best": result.best.to_dict(),
        "knee": result.knee.to_dict(),
        "front": [member.to_dict() for member in result.front],
    }


def _write_front(result: SearchResult, folder: Path) -> None:
    """Write front.json and one architecture file for each member, named by its hash."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(front_document(result), indent=2)
        (folder / "front.json").write_text(f"{document}\n", encoding="utf-8")
        for member in result.front:
            path = folder / f"{member.architecture.short_hash}.json"
            path.write_text(f"{member.architecture.to_json()}\n", encoding="utf-8")
    except OSError as err:
        message = f"cannot write the front to {folder}: {err.strerror}"
        raise UserInputError(message) from err
