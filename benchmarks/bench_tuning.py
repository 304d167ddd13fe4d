"""Tuning a whole space once: what it costs, and whether subnets lose anything by it.

Tunes the union of a space's workloads at one resolution (continuing what the workspace has), then

* checks that fresh random subnets need no further trial;
* tunes three of them each on their own, from scratch and for the same number of trials per
  workload, and runs both builds interleaved;
* counts the trials that 1,000 subnets would take one by one: each from scratch, and with a
  database that they share and fill as they come.

    python benchmarks/bench_tuning.py [--quick] [--json] [--workspace FOLDER] [--alone N]

With --parts N it does none of this, but builds and runs batches of N candidates of MetaSchedule's
with its own builder and runner and with ours (`metaschedule_parts.py`).

    python benchmarks/bench_tuning.py --parts 16 [--rounds 2]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser, say, table
from metaschedule_parts import compare_parts

from ofa_compile.cache import Cache
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.measurement.latency import Reference, TimingConfig, measure_latency
from ofa_compile.measurement.native_builder import NativeBuilder
from ofa_compile.options import TuneOptions, default_workspace
from ofa_compile.space import Architecture, SearchSpace, search_space
from ofa_compile.supernet import load_supernet
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.workflows.tuning import tune_target

FRESH = 20


def trials_by_workload(workspace: Path, target: TargetSpec) -> dict[str, int]:
    """Return how many trials each workload took, re-runs of the default included."""
    counts: dict[str, int] = {}
    for record in TuningDatabase(database_path(workspace, target)):
        if record.fingerprint == tuning_fingerprint(target) and record.code == kernel_digest():
            counts[record.workload.key] = counts.get(record.workload.key, 0) + 1
    return counts


def count_trials(
    space: SearchSpace, subnets: Sequence[Architecture], trials: dict[str, int]
) -> dict[str, int]:
    """Count trials of tuning subnets one by one, with and without a shared database."""
    needed = [{w.key for w in workloads_of(space.layers(subnet))} for subnet in subnets]
    seen: set[str] = set().union(*needed)
    return {
        "num_subnets": len(subnets),
        "one_by_one": sum(trials[key] for keys in needed for key in keys),
        "shared_lazily": sum(trials[key] for key in seen),
        "union": sum(trials.values()),
    }


def compare_alone(
    subnet: Architecture, target: TargetSpec, workspace: Path, seconds: float
) -> dict[str, Any]:
    """Tune a subnet on its own, and run it against its build from the space's database."""
    build_options = {"cache": Cache()}
    supernet = load_supernet(None, space=search_space(subnet.space))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "architecture.json").write_text(subnet.to_json(), encoding="utf-8")
        alone = tune_target(
            TuneOptions(
                target=target.name,
                space=subnet.space,
                architecture=folder / "architecture.json",
                workspace=folder / "alone",
            )
        )
        runners = []
        for place in (workspace, folder / "alone"):
            build = NativeBuilder(
                target, supernet, tuned=tuned_configs(target, place), **build_options
            )
            output = folder / f"build_{len(runners)}"
            output.mkdir()
            runners.append(build(subnet, output))
        reference = Reference(runners[1], config=TimingConfig(max_seconds=seconds))
        result = measure_latency(runners[0], reference)
        for runner in runners:
            runner.close()
    return {
        "architecture": subnet.hash,
        "trials_alone": alone["num_trials"],
        "seconds_alone": alone["seconds"],
        "ratio": result.median_ms / reference.anchor_ms,
        "spread": result.spread,
        "ci_half_width": result.ci_half_width,
        "alone_ms": reference.anchor_ms,
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Tune, check, compare and count."""
    target, space = load_target("host"), search_space(options.space)
    workspace = options.workspace or default_workspace(target.name)
    resolution = options.resolution or max(space.resolutions)
    tuning = TuneOptions(
        space=space.name,
        resolutions=(resolution,),
        workspace=workspace,
        max_trials=20 if options.quick else None,
    )
    report = tune_target(tuning)
    trials = trials_by_workload(workspace, target)
    rng = np.random.default_rng(options.seed)
    fresh = [space.sample(rng, resolution=resolution) for _ in range(FRESH)]
    missing = {w.key for a in fresh for w in workloads_of(space.layers(a))} - set(trials)
    say(options, f"{len(missing)} workloads of {FRESH} fresh subnets are not tuned")
    alone = [compare_alone(a, target, workspace, options.seconds) for a in fresh[: options.alone]]
    counts = None
    if not missing:
        thousand = [space.sample(rng, resolution=resolution) for _ in range(1000)]
        counts = count_trials(space, thousand, trials)
    del report["gains"], report["database"]  # a list, and a path of this machine
    return {
        "space": space.name,
        "resolution": resolution,
        "tuning": report,
        "trial_seconds": sum(
            record.trial_s for record in TuningDatabase(database_path(workspace, target))
        ),
        "untuned_workloads_of_fresh_subnets": len(missing),
        "alone": alone,
        "trials": counts,
    }


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the figures."""
    rows = [
        (
            row["architecture"][:8],
            f"{row['alone_ms']:.2f}",
            row["trials_alone"],
            f"{row['ratio']:.3f}",
            f"{100 * row['spread']:.1f} %",
        )
        for row in result["alone"]
    ]
    header = ("subnet", "tuned alone, ms", "trials", "from the space / alone", "spread")
    say(options, table(header, rows))
    say(options, f"trials: {result['trials']}; speedup {result['tuning']['speedup']:.3f}")


def show_parts(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print what the parts took."""
    rows = [
        (
            name,
            f"{min(batch['build_s'] for batch in batches):.1f}",
            f"{min(batch['run_s'] for batch in batches):.1f}",
            max(batch["failed"] for batch in batches),
            f"{result['trials_per_minute'][name]:.0f}",
        )
        for name, batches in result["batches"].items()
    ]
    header = ("parts", "build, s", "run, s", "failed", "trials a minute")
    say(options, table(header, rows))
    say(options, f"times, ours over stock: {result['time_ours_over_stock']}")


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--space", default="ofa_mbv3_d234_e346_k357_w1.0")
    arguments.add_argument("--resolution", type=int)
    arguments.add_argument("--workspace", type=Path)
    arguments.add_argument("--alone", type=int, default=3, help="subnets to tune on their own")
    arguments.add_argument("--seconds", type=float, default=10.0, help="time to run a pair for")
    arguments.add_argument("--parts", type=int, help="candidates in a batch of MetaSchedule's")
    arguments.add_argument("--rounds", type=int, default=2, help="batches for each, with --parts")
    options = arguments.parse_args()
    if options.parts:
        parts = compare_parts(options.parts, options.rounds, options.seed)
        show_parts(parts, options)
        finish({"parts": parts}, options)
        return
    if options.quick:
        options.alone, options.seconds = 0, 1.0
    result = run(options)
    show(result, options)
    finish(result, options)


if __name__ == "__main__":
    main()
