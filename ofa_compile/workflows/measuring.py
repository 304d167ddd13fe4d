"""Latency data sets of a target, and the predictor fitted on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_compile.cache import digest
from ofa_compile.errors import DataError, DeviceUnavailableError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import FitLatencyOptions, MeasureOptions, default_workspace
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, SearchSpace, search_space
from ofa_compile.tuning.choose import tuned_configs
from ofa_compile.workflows.selection import latency_predictor_path

if TYPE_CHECKING:
    from ofa_compile.measurement.board_builder import BoardRunner
    from ofa_compile.measurement.dataset import LatencyRecord
    from ofa_compile.measurement.fleet import FleetReport
    from ofa_compile.measurement.measure import MeasureReport


def latency_dataset_path(workspace: Path) -> Path:
    """Return where `measure` appends what it timed."""
    return workspace / "latency.jsonl"


def code_version(tuned: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the code generator and the tuning that today's times belong to."""
    from ofa_compile.compiler.objects import code_fingerprint

    return digest(code_fingerprint(), json.dumps(tuned, sort_keys=True))[:12]


def wanted_subnets(options: MeasureOptions, space: SearchSpace) -> int | list[Architecture]:
    """Return the subnets named by files, checked, or how many to choose."""
    if not options.architectures:
        return options.count
    named = [Architecture.from_file(path) for path in options.architectures]
    for architecture in named:
        space.validate(architecture)
    return named


def measure_target(
    options: MeasureOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Measure subnets with fresh weights (times do not depend on them) into the data set.

    Raises
    ------
    DeviceUnavailableError
        If neither this machine nor a board can run the target's code.
    """
    target = load_target(options.target)
    space = search_space(options.space)
    workspace = options.workspace or default_workspace(target.name)
    if target.is_emulated:
        message = f"this machine cannot run code for '{target.name}', so it cannot time it"
        hint = "`search` and `compile` estimate instead; or reach a board: runner.kind = 'rpc'"
        raise DeviceUnavailableError(message, hint=hint)

    on = _measure_on_boards if target.runner.kind == "rpc" else _measure_here
    report = on(options, target, space, workspace, progress)
    return {
        "dataset": str(latency_dataset_path(workspace)),
        "target": target.name,
        **dataclasses.asdict(report),
    }


def _measure_here(
    options: MeasureOptions,
    target: TargetSpec,
    space: SearchSpace,
    workspace: Path,
    progress: ProgressCallback,
) -> MeasureReport:
    from ofa_compile.measurement.dataset import LatencyDataset
    from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
    from ofa_compile.measurement.native_builder import native_builder
    from ofa_compile.supernet import load_supernet

    tuned = tuned_configs(target, workspace)
    supernet = load_supernet(None, space=space)
    return measure_subnets(
        space,
        target,
        wanted_subnets(options, space),
        build=native_builder(target, supernet, threads=options.threads, tuned=tuned),
        dataset=LatencyDataset(latency_dataset_path(workspace)),
        resolution=options.resolution,
        seed=options.seed,
        config=MeasureConfig(threads=options.threads, code=code_version(tuned)),
        progress=progress,
    )


def _measure_on_boards(
    options: MeasureOptions,
    target: TargetSpec,
    space: SearchSpace,
    workspace: Path,
    progress: ProgressCallback,
) -> FleetReport:
    """Measure on all boards of the target that are free now."""
    from ofa_compile.bundle.manifest import describe_target
    from ofa_compile.measurement.board_builder import BOARD_TIMING, BuiltSubnet, build_subnet
    from ofa_compile.measurement.dataset import LatencyDataset
    from ofa_compile.measurement.fleet import Workshop, measure_fleet
    from ofa_compile.measurement.measure import MeasureConfig
    from ofa_compile.measurement.sample_log import SampleLog
    from ofa_compile.measurement.sampling import choose_architectures
    from ofa_compile.remote.program import acquire_target_board, count_free_boards
    from ofa_compile.remote.session import Board
    from ofa_compile.supernet import load_supernet

    tuned = tuned_configs(target, workspace)
    config = MeasureConfig(timing=BOARD_TIMING, threads=options.threads, code=code_version(tuned))
    description = describe_target(target)
    wanted = wanted_subnets(options, space)
    if isinstance(wanted, int):
        wanted = choose_architectures(
            space, wanted, seed=options.seed, resolution=options.resolution
        )
    num_boards = count_free_boards(description)
    supernet = load_supernet(None, space=space)

    def build(architecture: Architecture, folder: Path) -> BuiltSubnet:
        return build_subnet(architecture, folder, target, supernet, tuned=tuned)

    def deploy(built: BuiltSubnet, board: Board) -> BoardRunner:
        return built.deploy(board, options.threads)

    return measure_fleet(
        SampleLog(space, target, LatencyDataset(latency_dataset_path(workspace)), config),
        wanted,
        Workshop(take_board=lambda: acquire_target_board(description), build=build, deploy=deploy),
        num_boards,
        progress=progress,
    )


def fit_latency_predictor(
    options: FitLatencyOptions, progress: ProgressCallback = no_progress
) -> dict[str, Any]:
    """Fit a latency predictor on a target's data set and save it.

    Returns
    -------
    Where it went, and its cross-validated error beside the spread of repeated measurements.

    Raises
    ------
    DataError
        If the data set has too few usable records of the target and the space.
    """
    from ofa_compile.measurement.dataset import LatencyDataset, only_one_kind
    from ofa_compile.predictors.latency import LatencyPredictor, LatencyPredictorConfig

    target = load_target(options.target)
    workspace = options.workspace or default_workspace(target.name)
    path = options.dataset or latency_dataset_path(workspace)
    if not path.is_file():
        message = f"there is no latency data set at {path}"
        raise DataError(message, hint=f"ofa-compile measure --target {target.name} --count 100")
    matching = LatencyDataset(latency_dataset_path(workspace)).records(
        target_fingerprint=target.fingerprint, code=code_version(tuned_configs(target, workspace))
    )
    records = [
        record
        for record in matching
        if record.architecture.space == options.space
        and _latency_ms(record, options) is not None
        and record.threads == options.threads
    ]
    if not records:
        message = f"{path} has no successful records of '{options.space}' on '{target.name}' with "
        message += f"{options.threads} thread(s) and this version of the kernels and their tuning"
        raise DataError(message, hint=f"ofa-compile measure --target {target.name} --count 100")
    progress(f"fitting on {len(records)} subnets")
    predictor = LatencyPredictor(
        options.space,
        kind=only_one_kind(records),
        target=target.name,
        target_fingerprint=target.fingerprint,
        statistic=options.statistic,
        config=LatencyPredictorConfig(seed=options.seed),
    )
    report = predictor.fit(
        [record.architecture for record in records],
        [_latency_ms(record, options) or 0.0 for record in records],
    )
    output = options.output or latency_predictor_path(workspace, options.space, options.statistic)
    output.parent.mkdir(parents=True, exist_ok=True)
    predictor.save(output)
    spreads = [record.spread for record in records if record.spread is not None]
    return {
        "predictor": str(output),
        "target": target.name,
        "kind": predictor.kind,
        "statistic": predictor.statistic,
        "num_samples": report.num_samples,
        **{f"cross_validated_{name}": value for name, value in report.cross_validated.items()},
        "median_repeat_spread": float(np.median(spreads)) if spreads else None,
    }


def _latency_ms(record: LatencyRecord, options: FitLatencyOptions) -> float | None:
    """Return the statistic of a record that is to be fitted."""
    return record.p95_ms if options.statistic == "p95" else record.median_ms
