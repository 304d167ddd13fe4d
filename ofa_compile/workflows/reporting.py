"""Collect what a workspace knows about a search, and write the report."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from ofa_compile.errors import ArtifactError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.options import ReportOptions, default_workspace
from ofa_compile.predictors import metrics
from ofa_compile.predictors.latency import MIN_SAMPLES, LatencyPredictor
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.report.document import build_document
from ofa_compile.report.figures import write_figures, write_tables
from ofa_compile.report.page import write_page
from ofa_compile.space import SearchSpace, search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase, fastest
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
from ofa_compile.workflows.measuring import code_version, latency_dataset_path

logger = logging.getLogger(__name__)

_NUM_FOLDS = 5
_CURVE_SIZES = (10, 20, 40, 80, 160, 320)
_MIN_TESTED = 10


def write_report(
    options: ReportOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Do what `ofa-compile report` does.

    Returns
    -------
    Where the page and the figures went, and how much they show.

    Raises
    ------
    ArtifactError
        If the search's files are missing or damaged.
    MissingDependencyError
        If figures are asked for and matplotlib is not installed.
    """
    front = _read_json(options.search / "front.json")
    verification_path = options.search / "verification.json"
    verification = _read_json(verification_path) if verification_path.is_file() else None
    target = load_target(options.target)
    space = _space_of(front, options)
    workspace = options.workspace or default_workspace(target.name)
    progress("reading the workspace")
    records = _records(workspace, target, space)
    progress(f"cross-validating on {len(records)} measured subnets")
    energies = _energies(records)
    document = build_document(
        front,
        space,
        target,
        verification=verification,
        latency_pairs=_latency_pairs(records, space),
        energies=energies,
        learning_curves=_learning_curves(records, space),
        tuning=_tuning(workspace, target),
        provenance=_provenance(records),
    )
    write_page(document, options.output)
    figures: list[Path] = []
    if options.figures is not None:
        figures = [
            *write_tables(document, options.figures),
            *write_figures(document, options.figures),
        ]
    return {
        "report": str(options.output),
        "points": len(document["points"]),
        "verified": len(document["verified"]),
        "measured_subnets": len(records),
        "median_energy_mj": median(row["energy_mj"] for row in energies) if energies else None,
        "tuned_workloads": len(document["tuning"]),
        "figures": [str(path) for path in figures],
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"cannot read {path}: {error}"
        hint = "give the folder of `ofa-compile search --output FOLDER`"
        raise ArtifactError(message, hint=hint) from error
    if not isinstance(document, dict):
        message = f"{path} is not the result of a search"
        raise ArtifactError(message)
    return document


def _space_of(front: dict[str, Any], options: ReportOptions) -> SearchSpace:
    """Return the space of the front's members; that of the options if it has none."""
    try:
        members = front["front"]
        return search_space(str(members[0]["architecture"]["space"]) if members else options.space)
    except (KeyError, TypeError) as error:
        message = f"{options.search / 'front.json'} is not the result of a search: {error!r}"
        raise ArtifactError(message) from error


def _records(workspace: Path, target: TargetSpec, space: SearchSpace) -> list[LatencyRecord]:
    """Return the newest comparable measurement of each subnet."""
    path = latency_dataset_path(workspace)
    if not path.is_file():
        return []
    found = LatencyDataset(path).records(
        kind="measurement",
        target_fingerprint=target.fingerprint,
        code=code_version(tuned_configs(target, workspace)),
        cache_state="warm",
    )
    usable = [r for r in found if r.architecture.space == space.name and r.threads == 1]
    # Times of different batches do not compare: those of the newest record's go on.
    usable = [record for record in usable if record.batch == usable[-1].batch]
    return list({record.architecture.hash: record for record in usable}.values())


def _energies(records: Sequence[LatencyRecord]) -> list[dict[str, Any]]:
    """Return what an inference of each subnet uses, where that was counted, the least first."""
    rows = [
        {
            "hash": record.architecture.short_hash,
            "resolution": record.architecture.resolution,
            "batch": record.batch,
            "measured_ms": record.median_ms,
            "energy_mj": record.energy_mj,
        }
        for record in records
        if record.energy_mj is not None
    ]
    return sorted(rows, key=lambda row: row["energy_mj"])


def _latency_pairs(records: Sequence[LatencyRecord], space: SearchSpace) -> list[dict[str, Any]]:
    """Predict each measured subnet by a predictor fitted on the others."""
    if len(records) < 2 * MIN_SAMPLES:
        return []
    order = np.random.default_rng(0).permutation(len(records))
    pairs = []
    for fold in np.array_split(order, _NUM_FOLDS):
        rest = np.setdiff1d(order, fold)
        predictor = _fitted([records[i] for i in rest], space)
        tested = [records[i] for i in fold if _covers(predictor, records[i])]
        architectures = [record.architecture for record in tested]
        if not tested:
            continue
        predicted = predictor.predict(architectures)
        spread = predictor.uncertainty(architectures)
        for record, ms, std in zip(tested, predicted.tolist(), spread.tolist(), strict=True):
            pairs.append(
                {
                    "predicted_ms": ms,
                    "measured_ms": record.median_ms,
                    "relative_std": std,
                    "is_winner": False,
                }
            )
    return pairs


def _learning_curves(records: Sequence[LatencyRecord], space: SearchSpace) -> list[dict[str, Any]]:
    """Fit on growing numbers of measured subnets, test on those left out of all fits."""
    order = np.random.default_rng(1).permutation(len(records))
    num_tested = max(_MIN_TESTED, len(records) // 5)
    sizes = [size for size in _CURVE_SIZES if size + num_tested <= len(records)]
    if len(sizes) < 2:
        return []
    errors = []
    for size in sizes:
        predictor = _fitted([records[i] for i in order[num_tested : num_tested + size]], space)
        tested = [records[i] for i in order[:num_tested] if _covers(predictor, records[i])]
        predicted = predictor.predict([record.architecture for record in tested])
        errors.append(100 * metrics.mape([record.median_ms or 0.0 for record in tested], predicted))
    return [
        {
            "name": "Latency predictor",
            "x_label": "measured subnets",
            "y_label": "mean error on others, %",
            "x": sizes,
            "y": errors,
        }
    ]


def _fitted(records: Sequence[LatencyRecord], space: SearchSpace) -> LatencyPredictor:
    predictor = LatencyPredictor(space)
    predictor.fit(
        [record.architecture for record in records], [record.median_ms or 0.0 for record in records]
    )
    return predictor


def _covers(predictor: LatencyPredictor, record: LatencyRecord) -> bool:
    return record.architecture.resolution in predictor.resolutions


def _tuning(workspace: Path, target: TargetSpec) -> list[dict[str, Any]]:
    """Return default and best time of each tuned workload, the largest gain first."""
    path = database_path(workspace, target)
    if not path.is_file():
        return []
    rows = []
    for records in TuningDatabase(path).results(
        tuning_fingerprint(target), kernel_digest(target.family)
    ):
        best = fastest(records)
        if best is None or best.time_us is None:
            continue
        default = next((r.time_us for r in records if r.is_default and r.status == "ok"), None)
        facts = best.workload.to_dict()
        words = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "kind")
        rows.append(
            {
                "workload": f"{facts['kind']}: {words}",
                "default_us": default,
                "best_us": best.time_us,
                "gain": None if default is None else default / best.time_us,
                "roofline_share": best.roofline_share,
            }
        )
    return sorted(rows, key=lambda row: -(row["gain"] or 0.0))


def _provenance(records: Sequence[LatencyRecord]) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in ("ofa-compile", "apache-tvm", "xgboost-cpu", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            logger.info("%s is not installed", package)
    facts: dict[str, Any] = {"versions": versions, "measured subnets": len(records)}
    if records:
        facts["measured on"] = records[-1].machine
        facts["versions when measured"] = records[-1].versions
    return facts
