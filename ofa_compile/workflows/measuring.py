"""Measure subnets of a space on a target, into the latency data set of its workspace."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.cache import digest
from ofa_compile.errors import DeviceUnavailableError, UserInputError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.options import MeasureOptions, default_workspace
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, SearchSpace, search_space
from ofa_compile.tuning.choose import tuned_configs

if TYPE_CHECKING:
    from ofa_compile.measurement.board_builder import BoardRunner
    from ofa_compile.measurement.native_builder import NativeBuilder


def latency_dataset_path(workspace: Path) -> Path:
    """Return where `measure` appends what it timed."""
    return workspace / "latency.jsonl"


def code_version(tuned: Mapping[str, Mapping[str, Any]]) -> str:
    """Name the code generator and the tuning that today's times belong to."""
    from ofa_compile.compiler.objects import code_fingerprint

    return digest(code_fingerprint(), json.dumps(tuned, sort_keys=True))[:12]


def wanted_subnets(options: MeasureOptions, space: SearchSpace) -> list[Architecture]:
    """Return the subnets named by files, checked, or those of the design."""
    from ofa_compile.measurement.sampling import choose_architectures, draw_architectures

    if not options.architectures:
        choose = draw_architectures if options.design == "uniform" else choose_architectures
        return choose(space, options.count, seed=options.seed, resolution=options.resolution)
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
    UserInputError
        If boards are asked for what only this machine can do.
    """
    if options.estimate:
        from ofa_compile.workflows.estimating import estimate_target

        return estimate_target(options, progress)
    target = target_in(load_target(options.target), options.precision)
    space = search_space(options.space)
    workspace = options.workspace or default_workspace(target.name)
    if target.is_emulated:
        message = f"this machine cannot run code for '{target.name}', so it cannot time it"
        hint = "--estimate counts instructions instead; or reach a board: runner.kind = 'rpc'"
        raise DeviceUnavailableError(message, hint=hint)

    on = _measure_here
    if target.runner.kind == "rpc":
        on = _measure_on_boards
    elif target.platform.is_hosted:
        on = _measure_in_engine
    report = on(options, target, space, workspace, progress)
    return {
        "dataset": str(latency_dataset_path(workspace)),
        "target": target.name,
        **report,
    }


def _measure_here(
    options: MeasureOptions,
    target: TargetSpec,
    space: SearchSpace,
    workspace: Path,
    progress: ProgressCallback,
) -> dict[str, Any]:
    from ofa_compile.hardware.nvml import COVERS
    from ofa_compile.measurement.dataset import LatencyDataset
    from ofa_compile.measurement.energy import energy_meter
    from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
    from ofa_compile.measurement.native_builder import NativeBuilder
    from ofa_compile.measurement.sample_log import gpu_of

    tuned = tuned_configs(target, workspace)
    code = code_version(tuned)
    ahead = workspace / "built" / f"{target.fingerprint[:12]}-{code}-batch{options.batch}"
    how: dict[str, Any] = {
        "threads": options.threads, "batch": options.batch, "cache_state": options.cache_state
    }  # fmt: skip
    gpu = None if options.build_only else gpu_of(target)
    build = NativeBuilder(target, tuned=tuned, ahead=ahead, **how)
    wanted = wanted_subnets(options, space)
    if options.build_only:
        return _build_ahead(build, wanted, space, progress)
    report = measure_subnets(
        space,
        target,
        wanted,
        build=build,
        dataset=LatencyDataset(latency_dataset_path(workspace)),
        num_repeats=options.repeats,
        max_seconds=None if options.budget_minutes is None else 60 * options.budget_minutes,
        config=MeasureConfig(code=code, **how),
        meter=energy_meter(target),
        progress=progress,
    )
    num_done = report.num_skipped + report.num_measured + report.num_failed
    if num_done == len(wanted) + len(wanted[: options.repeats]):
        build.forget(wanted)
    facts = dataclasses.asdict(report) | ({} if gpu is None else {"gpu": gpu})
    return facts if report.median_energy_mj is None else facts | {"energy_covers": COVERS}


def _build_ahead(
    build: NativeBuilder,
    wanted: Sequence[Architecture],
    space: SearchSpace,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """Build subnets and the reference network, and measure nothing."""
    from ofa_compile.measurement.sampling import reference_architecture

    todo, num_built = [reference_architecture(space), *wanted], 0
    for number, architecture in enumerate(todo):
        progress("build", number, len(todo))
        with tempfile.TemporaryDirectory(prefix="ofa-compile-build-") as folder:
            num_built += build.build_ahead(architecture, Path(folder))
    progress("build", len(todo), len(todo))
    return {"num_built": num_built, "num_ready": len(todo)}


def _measure_in_engine(
    options: MeasureOptions,
    target: TargetSpec,
    space: SearchSpace,
    workspace: Path,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """Measure inside an engine that this machine runs."""
    _refuse(options, target, {"build_only": False, "cache_state": "warm", "batch": 1, "threads": 1})
    from ofa_compile.measurement.dataset import LatencyDataset
    from ofa_compile.measurement.engine_builder import ENGINE_TIMING, EngineBuilder
    from ofa_compile.measurement.measure import MeasureConfig, measure_subnets
    from ofa_compile.supernet import load_supernet

    tuned = tuned_configs(target, workspace)
    report = measure_subnets(
        space,
        target,
        wanted_subnets(options, space),
        build=EngineBuilder(target, load_supernet(None, space=space), tuned=tuned),
        dataset=LatencyDataset(latency_dataset_path(workspace)),
        num_repeats=options.repeats,
        max_seconds=None if options.budget_minutes is None else 60 * options.budget_minutes,
        # The engine's own threads compile beside the code that is timed.
        config=MeasureConfig(timing=ENGINE_TIMING, code=code_version(tuned), pins_core=False),
        progress=progress,
    )
    return dataclasses.asdict(report)


def _refuse(options: MeasureOptions, target: TargetSpec, defaults: Mapping[str, Any]) -> None:
    """Refuse options that only targets have whose code this machine runs itself."""
    for name, default in defaults.items():
        if getattr(options, name) != default:
            message = f"--{name.replace('_', '-')} is for targets that this machine runs itself"
            how = "on boards" if target.runner.kind == "rpc" else "inside an engine"
            raise UserInputError(message, hint=f"'{target.name}' is measured {how}: drop it")


def _measure_on_boards(
    options: MeasureOptions,
    target: TargetSpec,
    space: SearchSpace,
    workspace: Path,
    progress: ProgressCallback,
) -> dict[str, Any]:
    """Measure on all boards of the target that are free now."""
    defaults: dict[str, Any] = {
        "build_only": False, "budget_minutes": None, "cache_state": "warm", "repeats": 0
    }  # fmt: skip
    _refuse(options, target, defaults)
    from ofa_compile.bundle.manifest import describe_target
    from ofa_compile.measurement.board_builder import BOARD_TIMING, BuiltSubnet, build_subnet
    from ofa_compile.measurement.dataset import LatencyDataset
    from ofa_compile.measurement.fleet import Workshop, measure_fleet
    from ofa_compile.measurement.measure import MeasureConfig
    from ofa_compile.measurement.sample_log import SampleLog
    from ofa_compile.remote.program import acquire_target_board, count_free_boards
    from ofa_compile.remote.session import Board
    from ofa_compile.supernet import load_supernet

    tuned = tuned_configs(target, workspace)
    config = MeasureConfig(
        timing=BOARD_TIMING,
        threads=options.threads,
        batch=options.batch,
        code=code_version(tuned),
    )
    description = describe_target(target)
    wanted = wanted_subnets(options, space)
    num_boards = count_free_boards(description)
    supernet = load_supernet(None, space=space)

    def build(architecture: Architecture, folder: Path) -> BuiltSubnet:
        return build_subnet(
            architecture, folder, target, supernet, batch=options.batch, tuned=tuned
        )

    def deploy(built: BuiltSubnet, board: Board) -> BoardRunner:
        return built.deploy(board, options.threads)

    report = measure_fleet(
        SampleLog(space, target, LatencyDataset(latency_dataset_path(workspace)), config),
        wanted,
        Workshop(take_board=partial(acquire_target_board, description), build=build, deploy=deploy),
        num_boards,
        progress=progress,
    )
    return dataclasses.asdict(report)
