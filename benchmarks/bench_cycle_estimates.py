"""Estimates from instruction counts and LLVM's model of a core, next to measured times.

Subnets that `measure --target x86-64` timed on this machine are estimated the way that a target
without a device is (`measure --estimate`): one inference's instructions counted in QEMU, cycles by
llvm-mca. How well that ranks, and how far it is off once one factor is fitted, is what a reader may
expect of such an estimate elsewhere; the roofline estimate of `search` stands beside it.

    ofa-compile measure --target x86-64 --count 50 --workspace ws
    python benchmarks/bench_cycle_estimates.py --measured ws/latency.jsonl --core znver4
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table

from ofa_compile.errors import OfaCompileError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord
from ofa_compile.measurement.network_cycles import CycleEstimator
from ofa_compile.options import MeasureOptions
from ofa_compile.predictors import metrics
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.space import search_space
from ofa_compile.tuning.choose import shipped_configs
from ofa_compile.workflows.estimating import build_executable
from ofa_compile.workflows.measuring import latency_dataset_path, measure_target


def measured(options: argparse.Namespace, target: TargetSpec) -> list[LatencyRecord]:
    """Return the newest measurement of each subnet, at most as many as asked for.

    Without a file of them, small subnets are measured now.
    """
    count = 3 if options.quick else options.count
    with tempfile.TemporaryDirectory(prefix="ofa-cycles-") as folder:
        path = options.measured
        if path is None:
            workspace = Path(folder)
            measure_target(
                MeasureOptions(
                    target=options.target, count=count, design="uniform", workspace=workspace
                )
            )
            path = latency_dataset_path(workspace)
        records = LatencyDataset(path).records(
            kind="measurement", target_fingerprint=target.fingerprint
        )
    newest = {record.architecture.hash: record for record in records if record.threads == 1}
    return list(newest.values())[:count]


def estimated(
    options: argparse.Namespace, target: TargetSpec, records: list[LatencyRecord]
) -> list[dict[str, Any]]:
    """Estimate every subnet, some seconds each; with --resume those that the result lacks."""
    estimator = CycleEstimator(target, core=options.core)
    tuned = shipped_configs(target)
    rows: dict[str, dict[str, Any]] = {}
    if options.resume and options.output.is_file():
        known = json.loads(options.output.read_text(encoding="utf-8"))["subnets"]
        rows = {row["hash"]: row for row in known}
    missing = [record for record in records if record.architecture.hash not in rows]
    for record in missing[: options.at_most]:
        space = search_space(record.architecture.space)
        with tempfile.TemporaryDirectory(prefix="ofa-cycles-") as folder:
            files = build_executable(record.architecture, target, space, Path(folder), tuned)
            figures = estimator.estimate(*files)
        name = record.architecture.hash
        rows[name] = {"hash": name, **dataclasses.asdict(figures), "measured_ms": record.median_ms}
        say(options, f"{len(rows)}/{len(records)} {figures.ms:.3f} {record.median_ms:.3f}")
    return list(rows.values())


def quality(measured_ms: np.ndarray, estimated_ms: np.ndarray) -> dict[str, float]:
    """Return ranks, the factor that fits best, and the error that is left with it."""
    factor = float(np.exp(np.mean(np.log(measured_ms / estimated_ms))))
    return {
        "spearman": metrics.spearman(measured_ms, estimated_ms),
        "kendall_tau": metrics.kendall_tau(measured_ms, estimated_ms),
        "measured_over_estimated": factor,
        "mape_as_it_is": metrics.mape(measured_ms, estimated_ms),
        "mape_with_factor": metrics.mape(measured_ms, factor * estimated_ms),
    }


def main() -> None:
    """Estimate, compare, report."""
    arguments = parser((__doc__ or "").split("\n")[0])
    arguments.add_argument("--measured", type=Path, help="latency.jsonl of measure")
    arguments.add_argument("--target", default="x86-64")
    arguments.add_argument("--core", help="LLVM's name of this machine's core, such as znver4")
    arguments.add_argument("--count", type=int, default=50)
    arguments.add_argument("--resume", action="store_true", help="go on with --output's subnets")
    arguments.add_argument("--at-most", type=int, help="estimate so many more, then report")
    options = arguments.parse_args()
    target = load_target(options.target)
    try:
        CycleEstimator(target, core=options.core)
    except OfaCompileError as error:
        say(options, f"skipped: {error}")
        finish({"benchmark": "cycle_estimates", "skipped": str(error)}, options)
        return
    records = measured(options, target)
    if not records:
        message = f"{options.measured} has no measurements of {options.target}"
        raise SystemExit(message)
    rows = estimated(options, target, records)
    by_hash = {record.architecture.hash: record.architecture for record in records}
    ms = np.array([row["measured_ms"] for row in rows])
    roofline = LatencyEstimator(target).estimate([by_hash[row["hash"]] for row in rows])
    document = {
        "cycle model": quality(ms, np.array([row["ms"] for row in rows])),
        "roofline": quality(ms, roofline),
        "instructions alone": quality(ms, np.array([row["instructions"] for row in rows]) / 1e6),
    }
    header = ("estimate", "Spearman", "Kendall tau", "factor", "MAPE as it is", "with factor")
    cells = [
        (
            name, f"{found['spearman']:.3f}", f"{found['kendall_tau']:.3f}",
            f"{found['measured_over_estimated']:.3f}", f"{found['mape_as_it_is']:.1%}",
            f"{found['mape_with_factor']:.1%}",
        )
        for name, found in document.items()
    ]  # fmt: skip
    say(options, f"\n## {len(rows)} subnets on {options.target}, core {options.core}\n")
    say(options, table(header, cells))
    result = {"benchmark": "cycle_estimates", "core": options.core, "quality": document}
    finish({**result, "subnets": rows}, options)


if __name__ == "__main__":
    main()
