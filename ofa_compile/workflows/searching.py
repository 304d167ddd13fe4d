"""What `ofa-compile search` does: targets and limits from words, the search, its files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_compile.errors import ConfigError, UserInputError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import SearchOptions, default_workspace
from ofa_compile.predictors.estimate import LIMITS
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.search.config import BEST_CONFIG, EvolutionConfig, scaled, scaled_walks
from ofa_compile.search.family import Family, search_family
from ofa_compile.search.search import Candidate, SearchResult, search
from ofa_compile.space import search_space
from ofa_compile.workflows.selection import load_accuracy_predictor, load_latency_predictor

_LIMIT = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)(ms)?")


@dataclass(frozen=True)
class TargetLimit:
    """A target, by what word it was named, and the latency allowed there; None for any."""

    word: str
    target: TargetSpec
    max_latency_ms: float | None


def parse_target(word: str) -> TargetLimit:
    """Read ``NAME``, ``NAME=20ms`` or ``NAME=20``, where the name may be the path of a file.

    Raises
    ------
    ConfigError
        If what follows ``=`` is no number of milliseconds.
    TargetNotFoundError
        If there is no such target.
    """
    name, separator, limit = word.rpartition("=")
    if not separator or Path(word).is_file():
        return TargetLimit(word, load_target(word), None)
    found = _LIMIT.fullmatch(limit.strip())
    if found is None:
        message = f"--target {word}: '{limit}' is not a number of milliseconds"
        raise ConfigError(message, hint="write --target NAME=20ms")
    return TargetLimit(name, load_target(name), float(found["number"]))


def parse_targets(options: SearchOptions) -> list[TargetLimit]:
    """Read all targets; one alone may take its limit from ``--max-latency-ms``.

    Raises
    ------
    ConfigError
        If a target is named twice, or a limit given twice.
    """
    found = [parse_target(word) for word in options.targets]
    names = [item.target.name for item in found]
    if len(set(names)) < len(names):
        message = f"a target is named more than once: {', '.join(names)}"
        raise ConfigError(message, hint="name each target once, with one limit")
    if options.max_latency_ms is None:
        return found
    if len(found) > 1 or found[0].max_latency_ms is not None:
        message = "--max-latency-ms goes with one --target that has no limit of its own"
        raise ConfigError(message, hint="write --target NAME=20ms for each target")
    return [TargetLimit(found[0].word, found[0].target, options.max_latency_ms)]


def target_workspace(options: SearchOptions, target: TargetSpec, num_targets: int) -> Path:
    """Return a target's folder of results; a given one has a folder for each of several targets.

    Raises
    ------
    ConfigError
        If one latency predictor is given for several targets.
    """
    if num_targets > 1 and options.latency_predictor is not None:
        message = "--latency-predictor is for one target, and there are several"
        raise ConfigError(message, hint="give --workspace, with a folder for each target")
    if options.workspace is None:
        return default_workspace(target.name)
    return options.workspace if num_targets == 1 else options.workspace / target.name


def search_targets(
    options: SearchOptions, progress: ProgressCallback = no_progress
) -> SearchResult | Family:
    """Search one subnet that meets the limits of all targets, or with `family` one for each.

    The front is written if an output folder is given.
    """
    targets = parse_targets(options)
    space = search_space(options.space)
    common: dict[str, Any] = {
        "accuracy": load_accuracy_predictor(space, options.accuracy_predictor),
        "latency": {
            item.target.name: load_latency_predictor(
                item.target,
                space,
                options.latency_predictor,
                target_workspace(options, item.target, len(targets)),
                statistic=options.latency_statistic,
                batch=options.batch,
            )
            for item in targets
        },
        "max_latency_ms": {
            item.target.name: item.max_latency_ms
            for item in targets
            if item.max_latency_ms is not None
        },
        "max_macs": options.max_macs,
        "max_parameters": options.max_parameters,
        "max_size_bytes": options.max_size_bytes,
        "max_activation_bytes": options.max_activation_bytes,
        "resolution": options.resolution,
        "seed": options.seed,
        **_configs(options.max_evaluations),
        "progress": lambda done, total: progress("searching", done, total),
    }
    result = search_family(space, **common) if options.family else search(space, **common)
    if options.output is not None:
        write_result(result, options.output)
    return result


def _configs(max_evaluations: int | None) -> dict[str, Any]:
    """Return the sizes of both searches so that they score about so many together."""
    front, best = EvolutionConfig(), BEST_CONFIG
    if max_evaluations is None:
        return {}
    share = max_evaluations / (front.max_evaluations + best.max_evaluations)
    return {"config": scaled(front, share), "best_config": scaled_walks(best, share)}


def result_document(result: SearchResult | Family) -> dict[str, Any]:
    """Return a search result as JSON-ready data."""
    limits = {"estimate_limits": LIMITS} if has_estimates(result) else {}
    if isinstance(result, Family):
        return {**result.to_dict(), **limits}
    return {
        "cost": result.cost_name,
        "num_evaluated": result.num_evaluated,
        "seconds": round(result.seconds, 3),
        **limits,
        "best": result.best.to_dict(),
        "knee": result.knee.to_dict(),
        "front": [member.to_dict() for member in result.front],
    }


def has_estimates(result: SearchResult | Family) -> bool:
    """Tell whether a latency of the result is an estimate."""
    members = result.members.values() if isinstance(result, Family) else [result.best]
    return any(
        latency.kind == "estimate" for member in members for latency in member.latencies.values()
    )


def write_result(result: SearchResult | Family, folder: Path) -> None:
    """Write the document and one architecture file for each member.

    Members of a front are named by their hash, those of a family by their target.
    """
    if isinstance(result, Family):
        members: dict[str, Candidate] = result.members
    else:
        members = {member.architecture.short_hash: member for member in result.front}
    name = "family.json" if isinstance(result, Family) else "front.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        document = json.dumps(result_document(result), indent=2)
        (folder / name).write_text(f"{document}\n", encoding="utf-8")
        for stem, member in members.items():
            path = folder / f"{stem}.json"
            path.write_text(f"{member.architecture.to_json()}\n", encoding="utf-8")
    except OSError as err:
        message = f"cannot write the result to {folder}: {err.strerror}"
        raise UserInputError(message) from err
