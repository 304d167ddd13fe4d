"""Trust a search by measuring what it found, and let the measurements improve the next search."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_compile.errors import ConfigError, MeasurementError
from ofa_compile.options import CompileOptions, FitLatencyOptions, MeasureOptions, SearchOptions
from ofa_compile.predictors.latency import MIN_SAMPLES
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.search.family import Family
from ofa_compile.search.pareto import thin_front
from ofa_compile.search.search import Candidate, SearchResult
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.workflows.latency_fitting import fit_latency_predictor
from ofa_compile.workflows.measuring import code_version, latency_dataset_path, measure_target
from ofa_compile.workflows.searching import (
    TargetLimit,
    parse_targets,
    search_targets,
    target_workspace,
)

if TYPE_CHECKING:
    from ofa_compile.measurement.dataset import LatencyRecord


VERIFICATION_NAME = "verification.json"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A candidate beside what was measured of it.

    Attributes
    ----------
    candidate
        The architecture and its predictions.
    median_ms, p95_ms, spread
        Of its runs on the target; the spread is that between rounds, as a fraction.
    batch
        Images of one run.
    energy_mj
        Millijoules of an inference; None where nothing counts them.
    accuracy
        Top-1 on the images given; None if none were.
    meets_limit
        Whether the measured latency is within the target's limit, if it has one.
    bundle
        Folder of its verified binary; None if none was asked for.
    blocks
        Measured time of each block, as `block_times.measure_blocks` returns it.
    """

    candidate: Candidate
    median_ms: float
    p95_ms: float | None
    spread: float | None
    batch: int = 1
    energy_mj: float | None = None
    accuracy: float | None = None
    meets_limit: bool = True
    bundle: Path | None = None
    blocks: list[dict[str, Any]] | None = None

    @property
    def images_per_s(self) -> float:
        """Measured throughput of runs one after the other."""
        return 1e3 * self.batch / self.median_ms

    @property
    def latency_error(self) -> float | None:
        """Predicted over measured latency, minus one."""
        predicted = self.candidate.latency_ms
        return None if predicted is None else predicted / self.median_ms - 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return prediction and measurement side by side, as JSON values."""
        return {
            "predicted": self.candidate.to_dict(),
            "measured": {
                "latency_ms": self.median_ms,
                "batch": self.batch,
                "images_per_s": self.images_per_s,
                "p95_ms": self.p95_ms,
                "spread": self.spread,
                "energy_mj": self.energy_mj,
                "accuracy": self.accuracy,
                "blocks": self.blocks,
            },
            "latency_error": self.latency_error,
            "meets_limit": self.meets_limit,
            "bundle": None if self.bundle is None else str(self.bundle),
        }


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verifying a search brought.

    Attributes
    ----------
    ranked
        The measured candidates: those that meet the limit first, then by accuracy (measured
        where it was), then by measured latency.
    rounds
        For each round: how many subnets were measured, the median absolute error of the latencies
        that were predicted for them, and what they were predicted by.
    """

    ranked: list[Verified]
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"verified": [item.to_dict() for item in self.ranked], "rounds": self.rounds}


def search_and_verify(
    options: SearchOptions, progress: ProgressCallback = no_progress
) -> tuple[SearchResult, Verification]:
    """Search, measure the best, and with several rounds refit and search again.

    Raises
    ------
    ConfigError
        If there are several targets, or a family is asked for.
    DeviceUnavailableError
        If nothing can run the target's code.
    MeasurementError
        If a candidate cannot be built or run.
    """
    targets = parse_targets(options)
    if options.family or len(targets) > 1:
        message = "--verify-top measures on one target, and there are several"
        raise ConfigError(message, hint="verify each target's subnet by a search of its own")
    limit = targets[0]
    options = dataclasses.replace(options, supernet=_supernet(options))
    workspace = target_workspace(options, limit.target, 1)
    known: dict[str, Verified] = {}
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds):
        last = number + 1 == options.rounds
        searched = options if last else dataclasses.replace(options, output=None)
        found_now = search_targets(searched, progress)
        assert not isinstance(found_now, Family)  # refused above
        result = found_now
        chosen = top_candidates(result, options.verify_top, _has_limit(options, limit))
        found = _measured(options, limit, workspace, chosen, progress)
        rounds.append(_round_summary(found))
        known |= {item.candidate.architecture.hash: item for item in found}
        if not last:
            refit(options, limit, workspace, progress)
    known = {key: _with_accuracy(options, limit, item, progress) for key, item in known.items()}
    ranked = sorted(known.values(), key=_rank)
    if options.output is not None and options.supernet is not None:
        ranked = [_compiled(options, limit, item, progress) for item in ranked]
    verification = Verification(ranked=ranked, rounds=rounds)
    if options.output is not None:
        text = json.dumps(verification.to_dict(), indent=2)
        (options.output / VERIFICATION_NAME).write_text(f"{text}\n", encoding="utf-8")
    return result, verification


def top_candidates(result: SearchResult, count: int, has_limit: bool) -> list[Candidate]:
    """Return the most accurate under a limit; without one, members spread over the front."""
    if has_limit:
        return result.front[-count:]
    points = np.array([[c.latency_ms or 0.0, -c.accuracy] for c in result.front])
    return [result.front[place] for place in thin_front(points, count)]


def refit(
    options: SearchOptions, limit: TargetLimit, workspace: Path, progress: ProgressCallback
) -> bool:
    """Fit the workspace's latency predictor anew; False while there are too few measurements."""
    records = _records(options, limit, workspace)
    if len(records) < MIN_SAMPLES:
        return False
    fit_latency_predictor(
        FitLatencyOptions(
            target=limit.word,
            space=options.space,
            workspace=workspace,
            statistic=options.latency_statistic,
            batch=options.batch,
            seed=options.seed,
        ),
        progress,
    )
    return True


def _measured(
    options: SearchOptions,
    limit: TargetLimit,
    workspace: Path,
    chosen: Sequence[Candidate],
    progress: ProgressCallback,
) -> list[Verified]:
    """Measure candidates into the workspace's data set, and put the records beside them."""
    with tempfile.TemporaryDirectory(prefix="ofa-compile-verify-") as folder:
        files = []
        for candidate in chosen:
            path = Path(folder) / f"{candidate.architecture.short_hash}.json"
            path.write_text(candidate.architecture.to_json(), encoding="utf-8")
            files.append(path)
        measure_target(
            MeasureOptions(
                target=limit.word,
                space=options.space,
                architectures=tuple(files),
                batch=options.batch,
                workspace=workspace,
                seed=options.seed,
            ),
            progress,
        )
    records = _records(options, limit, workspace)
    lacking = [c for c in chosen if c.architecture.hash not in records]
    if lacking:
        hashes = ", ".join(c.architecture.short_hash for c in lacking)
        message = f"{len(lacking)} of {len(chosen)} candidates could not be measured: {hashes}"
        raise MeasurementError(message, hint="the log says why; `ofa-compile doctor` may help")
    return [_verified(options, limit, c, records[c.architecture.hash]) for c in chosen]


def _records(
    options: SearchOptions, limit: TargetLimit, workspace: Path
) -> Mapping[str, LatencyRecord]:
    """Return the newest comparable record of each architecture of the space, by its hash."""
    from ofa_compile.measurement.dataset import LatencyDataset

    records = LatencyDataset(latency_dataset_path(workspace)).records(
        kind="measurement",
        target_fingerprint=limit.target.fingerprint,
        code=code_version(tuned_configs(limit.target, workspace)),
        cache_state="warm",
    )
    return {
        record.architecture.hash: record
        for record in records
        if record.architecture.space == options.space
        and record.threads == 1
        and record.batch == options.batch
    }


def _verified(
    options: SearchOptions, limit: TargetLimit, candidate: Candidate, record: LatencyRecord
) -> Verified:
    assert record.median_ms is not None  # of a successful record
    judged = record.p95_ms if options.latency_statistic == "p95" else record.median_ms
    bound = limit.max_latency_ms
    return Verified(
        candidate=candidate,
        median_ms=record.median_ms,
        p95_ms=record.p95_ms,
        spread=record.spread,
        batch=record.batch,
        energy_mj=record.energy_mj,
        meets_limit=bound is None or (judged is not None and judged <= bound),
    )


def _rank(item: Verified) -> tuple[bool, float, float]:
    accuracy = item.candidate.accuracy if item.accuracy is None else item.accuracy
    return (not item.meets_limit, -accuracy, item.median_ms)


def _supernet(options: SearchOptions) -> str | None:
    """Return the supernet given, or the one that ships for the space."""
    weights = importlib.resources.files("ofa_compile.weights") / f"{options.space}.safetensors"
    return options.supernet or (options.space if weights.is_file() else None)


def _has_limit(options: SearchOptions, limit: TargetLimit) -> bool:
    return limit.max_latency_ms is not None or any(
        bound is not None
        for bound in (
            options.max_macs,
            options.max_parameters,
            options.max_size_bytes,
            options.max_activation_bytes,
        )
    )


def _round_summary(found: Sequence[Verified]) -> dict[str, Any]:
    errors = [abs(item.latency_error) for item in found if item.latency_error is not None]
    return {
        "num_measured": len(found),
        "latency_kind": found[0].candidate.latency_kind,
        "median_latency_error": float(np.median(errors)) if errors else None,
    }


def _with_accuracy(
    options: SearchOptions, limit: TargetLimit, item: Verified, progress: ProgressCallback
) -> Verified:
    """Evaluate a candidate on the user's test images, if they gave some."""
    if options.data is None:
        return item
    if options.supernet is None:
        message = "--data measures accuracies, which needs the weights of a supernet"
        raise ConfigError(message, hint="pass --supernet FILE")
    from ofa_compile.workflows.subnets import measured_accuracy

    compiled = _compile_options(options, limit, Path())
    accuracy, _ = measured_accuracy(compiled, item.candidate.architecture, options.data, progress)
    return dataclasses.replace(item, accuracy=accuracy)


def _compiled(
    options: SearchOptions, limit: TargetLimit, item: Verified, progress: ProgressCallback
) -> Verified:
    """Compile a candidate; its manifest has the measurements beside the predictions."""
    from ofa_compile.bundle.bundle import load_bundle
    from ofa_compile.bundle.manifest import Figure
    from ofa_compile.pipeline import compile_bundle
    from ofa_compile.workflows.block_times import measure_blocks

    assert options.output is not None  # checked by the caller
    name = item.candidate.architecture.short_hash
    output = options.output / "bundles" / name
    how = f"on {limit.target.name}, 1 thread, batch {item.batch}"
    figures = {
        "latency_ms_on_target": Figure(value=item.median_ms, kind="measured", source=how),
        "images_per_s_on_target": Figure(value=item.images_per_s, kind="measured", source=how),
    }
    if item.accuracy is not None:
        source = f"test images of {options.data.name if options.data else 'the data set'}"
        figures["accuracy_top1_on_data"] = Figure(
            value=item.accuracy, kind="measured", source=source
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    compiled = _compile_options(options, limit, output)
    architecture = options.output / f"{name}.json"
    architecture.write_text(f"{item.candidate.architecture.to_json()}\n", encoding="utf-8")
    compiled = dataclasses.replace(compiled, architecture=architecture)
    compile_bundle(compiled, progress, measured=figures)
    blocks = measure_blocks(load_bundle(output), item.candidate.architecture)
    return dataclasses.replace(item, bundle=output, blocks=blocks)


def _compile_options(options: SearchOptions, limit: TargetLimit, output: Path) -> CompileOptions:
    assert options.supernet is not None  # checked by the callers
    return CompileOptions(
        target=limit.word,
        output=output,
        supernet=options.supernet,
        space=options.space,
        calibration_data=options.calibration_data,
        batch=options.batch,
        accuracy_predictor=options.accuracy_predictor,
        latency_predictor=options.latency_predictor,
        workspace=options.workspace,
        seed=options.seed,
    )
