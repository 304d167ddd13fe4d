"""Latency predictors for this machine: which one, from how few subnets, and how near to the noise.

Tunes a space, measures 100 subnets chosen to teach, and 100 drawn uniformly to test on, half of
them twice (loaded anew): how well measurements repeat bounds what any predictor can do. Then
compares models and numbers of training subnets. With `--also NAME`, another target that this
machine runs, it measures 20 and 30 subnets there, and predicts that target from this machine's
predictor and 10 or 20 subnets.

Everything built or measured is kept in the workspace, so the steps may run apart: builds when the
machine is busy, tuning and measuring when it is quiet.

    python benchmarks/bench_host_latency.py [--quick] [--json] [--workspace FOLDER] [--also x86-64]
        [--step tune|build|measure|evaluate] [--minutes N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from latency_models import (
    HEADER,
    Array,
    Model,
    Task,
    base_only,
    figures,
    kernel_sum,
    ours,
    row,
    scaled_prior,
    without_kernel_times,
    xgboost_features,
    xgboost_one_hot,
)

from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.measurement.sampling import choose_architectures, draw_architectures
from ofa_compile.options import MeasureOptions, TuneOptions, default_workspace
from ofa_compile.predictors import metrics
from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.predictors.drift import fit_drift_exponent, without_drift
from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.latency import LatencyPredictor
from ofa_compile.space import Architecture, search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
from ofa_compile.tuning.kernel_times import tuned_kernel_times
from ofa_compile.workflows.measuring import code_version, latency_dataset_path, measure_target
from ofa_compile.workflows.tuning import tune_target

MODELS: dict[str, Model] = {
    "ours": ours,
    "ours, analytic features only": without_kernel_times,
    "sum of kernel times, scaled": kernel_sum,
    "ridge alone": base_only,
    "XGBoost, all features": xgboost_features,
    "XGBoost, one-hot": xgboost_one_hot,
}


@dataclass(frozen=True)
class Sets:
    """How many subnets of each kind to measure on a target."""

    informative: int
    uniform: int
    repeats: int


class Data:
    """What was measured on one target.

    Attributes
    ----------
    train, test
        Subnets that were chosen, and drawn.
    train_ms, test_ms
        Their latencies.
    again
        First and second measurement of those that have two, of shape (2, n).
    kernel_times
        From the tuning database.
    drift_exponent
        Fitted on all of `train`; all latencies are without the drift to this power.
    raw_ms
        Latencies of `train` and `test` as they were measured.
    """

    def __init__(self, target_name: str, workspace: Path, sets: Sets, options: Any) -> None:
        space, target = search_space(options.space), load_target(target_name)
        dataset = LatencyDataset(latency_dataset_path(workspace))
        code = code_version(tuned_configs(target, workspace))
        samples, repeats = (_by_hash(dataset.records(role=r, code=code)) for r in _ROLES)
        wanted = _subnets(options, sets)
        lacking = [a for part in wanted for a in part if a.hash not in samples]
        if lacking:
            message = f"{len(lacking)} subnets are not measured on {target_name} yet"
            raise SystemExit(message)
        self.train, self.test = wanted
        found = [[samples[a.hash] for a in part] for part in wanted]
        self.raw_ms = tuple(np.array([r.median_ms for r in part]) for part in found)
        features = LatencyPredictor(space).features(self.train)
        self.drift_exponent = fit_drift_exponent(features, self.raw_ms[0], _drift(found[0]))
        self.train_ms, self.test_ms = (self._settled(part) for part in found)
        twice = [samples[key] for key in repeats], list(repeats.values())
        self.again = np.array([self._settled(part) for part in twice])
        self.records = list(samples.values())
        results = TuningDatabase(database_path(workspace, target)).results(
            tuning_fingerprint(target), kernel_digest()
        )
        sizes = _sizes(options) or space.resolutions
        self.kernel_times: KernelTimes = tuned_kernel_times(space, sizes, results)

    def _settled(self, records: Sequence[LatencyRecord]) -> Array:
        ms = np.array([record.median_ms for record in records])
        return without_drift(ms, _drift(records), self.drift_exponent)


_ROLES = ("sample", "repeat")


def _drift(records: Sequence[LatencyRecord]) -> Array:
    return np.array([record.drift for record in records])


def _by_hash(records: Sequence[LatencyRecord]) -> dict[str, LatencyRecord]:
    return {record.architecture.hash: record for record in records}


def _sizes(options: argparse.Namespace) -> tuple[int, ...]:
    """Return the one resolution asked for; none where all are."""
    return () if options.resolution is None else (options.resolution,)


def _subnets(
    options: argparse.Namespace, sets: Sets
) -> tuple[list[Architecture], list[Architecture]]:
    space, size = search_space(options.space), options.resolution
    return (
        choose_architectures(space, sets.informative, seed=options.seed, resolution=size),
        draw_architectures(space, sets.uniform, seed=options.test_seed, resolution=size),
    )


def prepare(name: str, workspace: Path, sets: Sets, options: argparse.Namespace) -> None:
    """Tune, build and measure, or one of these."""
    if options.step in (None, "tune"):
        tune_target(
            TuneOptions(
                target=name,
                space=options.space,
                resolutions=_sizes(options),
                workspace=workspace,
                # Quickly: every kernel is timed, with its default.
                roofline_share=0.0 if options.quick else TuneOptions.roofline_share,
            )
        )
    for step in ("build", "measure"):
        start = time.monotonic()
        for design, count, seed, repeats in (
            ("informative", sets.informative, options.seed, 0),
            ("uniform", sets.uniform, options.test_seed, sets.repeats),
        ):
            if options.step not in (None, step):
                continue
            left = options.minutes and max(0.0, options.minutes - (time.monotonic() - start) / 60)
            measure_target(
                MeasureOptions(
                    target=name,
                    space=options.space,
                    resolution=options.resolution,
                    design=design,  # type: ignore[arg-type]
                    count=count,
                    seed=seed,
                    repeats=repeats,
                    workspace=workspace,
                    build_only=step == "build",
                    budget_minutes=None if step == "build" else left,
                )
            )


def compare(data: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit every model on growing numbers of subnets; test on those drawn uniformly."""
    task = Task(search_space(options.space), data.kernel_times)
    results = []
    for name, model in MODELS.items():
        for size in (10, 20, 50, 100):
            if size <= len(data.train):
                predicted = model(task, data.train[:size], data.train_ms[:size], data.test, 0)
                found = figures(data.test_ms, predicted)
                results.append({"model": name, "num_train": size, **found})
    return results


def compare_designs(data: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit ours on chosen and on drawn subnets; test on the drawn ones that are left."""
    task, half = Task(search_space(options.space), data.kernel_times), len(data.test) // 2
    results = []
    for name, subnets, ms in (
        ("chosen", data.train, data.train_ms),
        ("drawn", data.test, data.test_ms),
    ):
        for size in (10, 20, 50):
            if size <= half:
                predicted = ours(task, subnets[:size], ms[:size], data.test[half:], 0)
                found = figures(data.test_ms[half:], predicted)
                results.append({"model": f"ours, {name}", "num_train": size, **found})
    return results


def judge_uncertainty(data: Data, options: argparse.Namespace) -> dict[str, float]:
    """Tell how often an error lies within one and two of the deviations that were promised."""
    predictor = LatencyPredictor(options.space, kernel_times=data.kernel_times)
    predictor.fit(data.train, data.train_ms)
    errors = np.abs(metrics.relative_errors(data.test_ms, predictor.predict(data.test)))
    promised = predictor.uncertainty(data.test)
    return {
        "median_promised": float(np.median(promised)),
        "within_one": float(np.mean(errors <= promised)),
        "within_two": float(np.mean(errors <= 2 * promised)),
    }


def adapt(here: Data, other: Data, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predict another target from this one's predictor and few subnets, and from those alone."""
    space = search_space(options.space)
    prior = LatencyPredictor(space, kernel_times=here.kernel_times)
    prior.fit(here.train, here.train_ms)
    ways: dict[str, tuple[Model, Task]] = {
        "prior, scaled": (scaled_prior, Task(space, prior=prior)),
        "adapted from prior": (ours, Task(space, prior=prior)),
        "adapted, own kernel times too": (ours, Task(space, other.kernel_times, prior)),
        "afresh, own kernel times": (ours, Task(space, other.kernel_times)),
        "afresh, analytic features": (ours, Task(space)),
    }
    results = []
    for name, (model, task) in ways.items():
        for size in (10, 20):
            if size <= len(other.train):
                predicted = model(task, other.train[:size], other.train_ms[:size], other.test, 0)
                found = figures(other.test_ms, predicted)
                results.append({"model": name, "num_train": size, **found})
    return results


def evaluate(data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """Return everything about this machine."""
    space = search_space(options.space)
    macs = CostTables(space).figure("macs", space.indices(data.test))
    spreads = [r.spread for r in data.records if r.spread is not None]
    task = Task(space, data.kernel_times)
    raw = ours(task, data.train, data.raw_ms[0], data.test, 0)
    return {
        "models": compare(data, options),
        "num_train": len(data.train),
        "drift_exponent": data.drift_exponent,
        "with_drift_left_in": figures(data.raw_ms[1], raw),
        "designs": compare_designs(data, options),
        "repeats": figures(*data.again) if data.again.size else None,
        "num_repeats": data.again.shape[-1] if data.again.size else 0,
        "median_round_spread": float(np.median(spreads)),
        "not_converged": sum(not r.is_converged for r in data.records),
        "num_measured": len(data.records),
        "uncertainty": judge_uncertainty(data, options),
        "latency_ms": _range(data.test_ms),
        "macs_and_latency": {
            "spearman": metrics.spearman(macs, data.test_ms),
            "kendall_tau": metrics.kendall_tau(macs, data.test_ms),
        },
    }


def _range(ms: Array) -> list[float]:
    return [round(float(q), 4) for q in np.quantile(ms, [0, 0.5, 1])]


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the figures."""
    for title in ("models", "designs", "adapting"):
        rows = [row(r["model"], r["num_train"], r) for r in result.get(title) or ()]
        if rows:
            say(options, f"\n## {title}\n\n{table(HEADER, rows)}")
    rows = [row("ours, drift left in", result["num_train"], result["with_drift_left_in"])]
    say(options, f"\n{table(HEADER, rows)}")
    if result["repeats"]:
        rows = [row("second measurement", result["num_repeats"], result["repeats"])]
        say(options, f"\n{table(HEADER, rows)}")
    say(options, f"\nuncertainty: {result['uncertainty']}")


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--space", default="ofa_mbv3_d234_e346_k357_w1.0")
    arguments.add_argument("--resolution", type=int, help="only this one  [default: all]")
    arguments.add_argument("--workspace", type=Path)
    arguments.add_argument("--test-seed", type=int, default=1, help="draws the test subnets")
    arguments.add_argument("--also", help="another target that this machine runs")
    arguments.add_argument("--also-workspace", type=Path)
    arguments.add_argument(
        "--step", choices=("tune", "build", "measure", "evaluate"), help="only this"
    )
    arguments.add_argument("--minutes", type=float, help="stop measuring after this time")
    options = arguments.parse_args()
    sets, few = Sets(100, 100, 50), Sets(20, 30, 0)
    if options.quick:
        options.space, options.resolution = "ofa_mbv3_cifar", 24
        sets, few = Sets(10, 5, 2), Sets(10, 5, 0)
    places = {"host": (options.workspace or default_workspace("host"), sets)}
    if options.also:
        places[options.also] = (options.also_workspace or default_workspace(options.also), few)
    for name, (workspace, wanted) in places.items():
        prepare(name, workspace, wanted, options)
    if options.step not in (None, "evaluate"):
        return
    data = {name: Data(name, *place, options) for name, place in places.items()}
    result = {
        "benchmark": "host_latency",
        "space": options.space,
        "resolution": options.resolution,
        **evaluate(data["host"], options),
        "adapting_to": options.also,
        "adapting": adapt(data["host"], data[options.also], options) if options.also else None,
    }
    show(result, options)
    finish(result, options)


if __name__ == "__main__":
    main()
