"""Fit a latency predictor on a target's latency data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_compile.errors import DataError
from ofa_compile.hardware.precision import as_options, target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import FitLatencyOptions, default_workspace
from ofa_compile.predictors import metrics
from ofa_compile.predictors.drift import fit_drift_exponent, without_drift
from ofa_compile.predictors.latency import MIN_SAMPLES, LatencyPredictor
from ofa_compile.predictors.latency_residual import LatencyPredictorConfig
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.workflows.measuring import code_version, latency_dataset_path
from ofa_compile.workflows.selection import latency_predictor_path

if TYPE_CHECKING:
    from ofa_compile.measurement.dataset import LatencyRecord
    from ofa_compile.predictors.kernel_times import KernelTimes

_CURVE = (10, 20, 50, 100, 200, 500)
# Fewer subnets to test on say nothing.
_MIN_TEST = 10


def fit_latency_predictor(
    options: FitLatencyOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Fit a latency predictor on a target's data set and save it.

    Returns
    -------
    Where it went, its error on subnets it was not fitted on, how that falls with their number, and
    how well measurements repeat.

    Raises
    ------
    DataError
        If the data set has too few usable records of the target and the space.
    TargetSpecError
        If the target cannot compute in the precision.
    """
    target = target_in(load_target(options.target), options.precision)
    workspace = options.workspace or default_workspace(target.name)
    records, repeats = _records(options, target, workspace)
    num_fitted = len(records) - options.held_out
    if num_fitted < MIN_SAMPLES:
        message = f"{len(records)} records leave {num_fitted} to fit on beside "
        message += f"{options.held_out} held out; at least {MIN_SAMPLES} are needed"
        raise DataError(message, hint=_measure_hint(target))
    study = _Study(options, target, workspace, records)
    progress(f"fitting on {num_fitted} subnets")
    curve = study.curve(num_fitted, progress)
    predictor, report = study.fit(num_fitted)
    output = options.output or latency_predictor_path(
        workspace, options.space, options.statistic, options.batch
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(output)
    spreads = [record.spread for record in records if record.spread is not None]
    return {
        "predictor": str(output),
        "target": target.name,
        "kind": predictor.kind,
        "statistic": predictor.statistic,
        "batch": predictor.batch,
        "num_samples": num_fitted,
        "has_kernel_times": predictor.kernel_times is not None,
        "cross_validated": report,
        "held_out": study.errors(predictor, num_fitted) if options.held_out else None,
        "learning_curve": curve,
        "drift_exponent": study.drift_exponent,
        "median_round_spread": float(np.median(spreads)) if spreads else None,
        "repeats": _repeat_errors(records, repeats, options, study.drift_exponent),
    }


class _Study:
    """Fits on the first records of a data set, and tests on the others."""

    def __init__(
        self,
        options: FitLatencyOptions,
        target: TargetSpec,
        workspace: Path,
        records: Sequence[LatencyRecord],
    ) -> None:
        from ofa_compile.measurement.dataset import only_one_kind

        self._records = records
        self._measured_ms = np.array([_latency_ms(record, options) for record in records])
        self._drift = np.array([record.drift or 0.0 for record in records])
        self._architectures = [record.architecture for record in records]
        self._predictor_options: dict[str, Any] = {
            "kind": only_one_kind(list(records)),
            "target": target.name,
            "target_fingerprint": target.fingerprint,
            "statistic": options.statistic,
            "batch": options.batch,
            "kernel_times": _kernel_times(target, workspace, options, self._architectures),
            "prior": None if options.prior is None else LatencyPredictor.load(options.prior),
            "config": LatencyPredictorConfig(seed=options.seed),
        }
        self._space = search_space(options.space)

    def fit(self, count: int) -> tuple[LatencyPredictor, dict[str, float]]:
        """Fit on the first records; return the predictor and its cross-validated figures.

        How times follow the machine's drift is fitted along, and holds for `errors` too.
        """
        predictor = LatencyPredictor(self._space, **self._predictor_options)
        batch = predictor.features(self._architectures[:count])
        ms, drift = self._measured_ms[:count], self._drift[:count]
        self.drift_exponent = fit_drift_exponent(batch, ms, drift)
        corrected = without_drift(ms, drift, self.drift_exponent)
        report = predictor.fit(self._architectures[:count], corrected)
        return predictor, report.cross_validated

    def errors(self, predictor: LatencyPredictor, start: int) -> dict[str, float]:
        """Test on the records from `start` on."""
        space = predictor.space
        predicted = predictor.predict_indices(space, space.indices(self._architectures[start:]))
        ms, drift = self._measured_ms[start:], self._drift[start:]
        return metrics.summary(without_drift(ms, drift, self.drift_exponent), predicted)

    def curve(self, num_fitted: int, progress: ProgressCallback) -> list[dict[str, float]]:
        """Fit on fewer; test on the held-out records, or where none are on all later ones."""
        total = len(self._records)
        points = []
        for count in _CURVE:
            start = num_fitted if num_fitted < total else count
            if count > num_fitted or total - start < _MIN_TEST:
                break
            progress(f"learning curve: {count} subnets")
            figures = self.errors(self.fit(count)[0], start)
            points.append({"num_samples": count, **figures})
        return points


def _records(
    options: FitLatencyOptions, target: TargetSpec, workspace: Path
) -> tuple[list[LatencyRecord], list[LatencyRecord]]:
    """Return the samples that the options ask for, and their repeated measurements."""
    from ofa_compile.measurement.dataset import LatencyDataset

    path = options.dataset or latency_dataset_path(workspace)
    if not path.is_file():
        message = f"there is no latency data set at {path}"
        raise DataError(message, hint=_measure_hint(target))
    dataset = LatencyDataset(path)
    conditions: dict[str, Any] = {
        "target_fingerprint": target.fingerprint,
        "code": code_version(tuned_configs(target, workspace)),
        "cache_state": options.cache_state,
    }
    samples, repeats = (
        [
            record
            for record in dataset.records(role=role, **conditions)
            if record.architecture.space == options.space
            and _latency_ms(record, options) is not None
            and record.threads == options.threads
            and record.batch == options.batch
        ]
        for role in ("sample", "repeat")
    )
    if not samples:
        message = f"{path} has no successful records of '{options.space}' on '{target.name}' with "
        message += f"{options.threads} thread(s), batch {options.batch}, {options.cache_state} "
        message += "caches and this version of "
        message += "the kernels and their tuning"
        raise DataError(message, hint=_measure_hint(target))
    return samples, repeats


def _measure_hint(target: TargetSpec) -> str:
    return f"ofa-compile measure {as_options(target)} --count 100"


def _kernel_times(
    target: TargetSpec, workspace: Path, options: FitLatencyOptions, architectures: Sequence[Any]
) -> KernelTimes | None:
    """Return what tuning measured, if it covers every resolution that can be predicted."""
    from ofa_compile.tuning.database import TuningDatabase
    from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
    from ofa_compile.tuning.kernel_times import tuned_kernel_times

    space = search_space(options.space)
    sizes = [architecture.resolution for architecture in architectures]
    wanted = [size for size in space.resolutions if min(sizes) <= size <= max(sizes)]
    database = TuningDatabase(database_path(workspace, target))
    results = database.results(tuning_fingerprint(target), kernel_digest(target.family))
    times = tuned_kernel_times(
        space, wanted, results, target.family, options.batch, target.precision
    )
    return times if wanted and times.resolutions >= set(wanted) else None


def _repeat_errors(
    records: Sequence[LatencyRecord],
    repeats: Sequence[LatencyRecord],
    options: FitLatencyOptions,
    drift_exponent: float,
) -> dict[str, float] | None:
    """Compare second measurements with the first: no predictor errs less for long."""

    def settled(record: LatencyRecord) -> float:
        ms, drift = np.array([_latency_ms(record, options)]), np.array([record.drift or 0.0])
        return float(without_drift(ms, drift, drift_exponent)[0])

    first = {record.architecture: settled(record) for record in records}
    known = [(first[r.architecture], settled(r)) for r in repeats if r.architecture in first]
    if not known:
        return None
    once, again = np.array(known).T
    return {"num_subnets": len(known), **metrics.summary(once, again)}


def _latency_ms(record: LatencyRecord, options: FitLatencyOptions) -> float | None:
    """Return the statistic of a record that is to be fitted."""
    return record.p95_ms if options.statistic == "p95" else record.median_ms
