"""Tune every workload of a search space for a target, into the workspace's database."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ofa_compile.compiler.onnx_file import onnx_identity
from ofa_compile.compiler.workload import Workload
from ofa_compile.errors import DeviceUnavailableError, UserInputError
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.measurement.network_cycles import LEFT_OUT
from ofa_compile.options import TuneOptions, default_workspace
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space import Architecture, search_space
from ofa_compile.tuning.builder import BuilderPool
from ofa_compile.tuning.choose import database_path, write_configs
from ofa_compile.tuning.database import TuningDatabase, TuningRecord, record_summary
from ofa_compile.tuning.fingerprint import kernel_digest, tuning_fingerprint
from ofa_compile.tuning.jobs import Runner
from ofa_compile.tuning.layer_workloads import workloads_of
from ofa_compile.tuning.local_runner import LocalRunner
from ofa_compile.tuning.plan import Plan, StopRule, make_tasks
from ofa_compile.tuning.report import gains, speedup
from ofa_compile.tuning.roofline import Roofline
from ofa_compile.tuning.separables import separables
from ofa_compile.tuning.tuner import Tuner, TuningBudget
from ofa_compile.tuning.union import workload_union


def tune_target(options: TuneOptions, progress: ProgressCallback = no_progress) -> dict[str, Any]:
    """Do what `ofa-compile tune` does; with `dry_run`, plan and forecast only.

    Returns
    -------
    Coverage before and after, what the trials brought, and where the database is.

    Raises
    ------
    DeviceUnavailableError
        If neither this machine nor a board can run the target's code, and nothing estimates it.
    MissingDependencyError
        If what estimates it is not installed.
    UserInputError
        If a CPU is asked for more than one image at a time, or a precision does not exist.
    TargetSpecError
        If the target cannot compute in the precision.
    ArtifactError
        If the database is corrupted or cannot be written.
    TuningError
        If nothing can be built or run.
    """
    target = target_in(load_target(options.target), options.precision)
    _check_tunable(target, options)
    path = database_path(options.workspace or default_workspace(target.name), target)
    database = TuningDatabase(path)
    with _workers(target) as (builder, runner):
        progress("listing workloads")
        plan = _make_plan(options, target, database, builder)
        before = plan.coverage()
        start, trials = time.monotonic(), list[TuningRecord]()
        if not options.dry_run:
            budget = _budget(options, target)
            tuner = Tuner(
                plan,
                database,
                builder,
                runner,
                fingerprint=tuning_fingerprint(target),
                code=kernel_digest(target.family),
                observe=_Observer(plan, trials, budget, progress),
            )
            tuner.run(budget)
        seconds = time.monotonic() - start
    if options.output is not None and not options.dry_run:
        write_configs(options.output, target, plan.results)
    return {
        "database": str(path),
        "target": target.name,
        "precision": target.precision,
        "kind": runner.kind,
        "left_out": LEFT_OUT if runner.kind == "estimate" else None,
        "space": options.space if options.onnx is None else None,
        "coverage_before": dataclasses.asdict(before),
        "coverage": dataclasses.asdict(plan.coverage()),
        "num_trials": len(trials),
        "trials": record_summary(trials),
        "boards": _boards(runner, trials),
        "seconds": round(seconds, 2),
        "speedup": speedup(plan),
        "gains": gains(plan),
    }


def _boards(runner: Runner, trials: list[TuningRecord]) -> list[dict[str, Any]]:
    """Say what every board did, trials included."""
    counts = Counter(trial.board for trial in trials)
    return [
        {**dataclasses.asdict(board), "num_trials": counts[board.board]} for board in runner.boards
    ]


def _check_tunable(target: TargetSpec, options: TuneOptions) -> None:
    """Refuse targets whose candidates nothing here can judge."""
    if target.is_gpu:
        if target.runner.kind == "rpc":
            return
        if target.runner.kind != "local" or not target.is_native:
            message = f"'{target.name}' is no GPU of this machine, and tuning needs the device"
            hint = 'reach it as a board (kind = "rpc" under [runner]), or run tune where the GPU '
            hint += "is and give its workspace to compile (--workspace)"
            raise DeviceUnavailableError(message, hint=hint)
        check_gpu(target.kind)
        return
    if target.platform.is_hosted or (target.is_emulated and target.arch != "aarch64"):
        message = f"this machine cannot run code for '{target.name}', and nothing estimates it"
        raise DeviceUnavailableError(message, hint="kernels use their defaults meanwhile")
    if options.batch != 1:
        message = f"--batch {options.batch}: only GPUs are tuned for more than one image at a time"
        raise UserInputError(message, hint="drop --batch")


def _make_plan(
    options: TuneOptions, target: TargetSpec, database: TuningDatabase, builder: BuilderPool
) -> Plan:
    union = _workloads(options, target, builder)
    tasks = make_tasks(union, builder.describe(list(union)))
    results = database.results(tuning_fingerprint(target), kernel_digest(target.family))
    share = options.roofline_share
    stop = StopRule(roofline_share=share, max_trials=target.tuning.max_trials_per_task)
    return Plan(tasks, results, Roofline(target), stop)


def _workloads(
    options: TuneOptions, target: TargetSpec, builder: BuilderPool
) -> dict[Workload, float]:
    """Return the workloads of the space, or of the one network that was asked for."""
    if options.onnx is not None:
        onnx_identity(options.onnx)  # or its error, which says what is wrong with the file
        return builder.network(options.onnx)
    space = search_space(options.space)
    if options.architecture is None:
        sizes = options.resolutions or space.resolutions
        return workload_union(
            space, sizes, family=target.family, batch=options.batch, precision=target.precision
        )
    if options.resolutions:
        message = "an architecture has its own resolution; --resolution is for whole spaces"
        raise UserInputError(message, hint="drop one of the two options")
    layers = space.layers(Architecture.from_file(options.architecture))
    found = workloads_of(layers, target.family, options.batch, target.precision)
    counts = Counter([*found, *(separables(found) if target.is_gpu else [])])
    return {workload: float(n) for workload, n in counts.items()}


def _budget(options: TuneOptions, target: TargetSpec) -> TuningBudget:
    """Take the limits given, or else the target's."""
    minutes = options.budget_minutes
    return TuningBudget(
        max_trials=options.max_trials or target.tuning.max_trials_global,
        max_seconds=None if minutes is None else 60 * minutes,
    )


class _Observer:
    """Tells how tuning goes: trials, gain over the defaults, roofline share."""

    def __init__(
        self,
        plan: Plan,
        trials: list[TuningRecord],
        budget: TuningBudget,
        progress: ProgressCallback,
    ) -> None:
        self._plan, self._trials, self._progress = plan, trials, progress
        self._budget, self._start = budget, time.monotonic()

    def __call__(self, records: Sequence[TuningRecord]) -> None:
        self._trials.extend(records)
        best = self._plan.results.best(records[0].workload)
        detail = f"speedup {speedup(self._plan):.3f}"
        if best is not None and best.roofline_share is not None:
            detail += f", {records[0].workload.kind} at {best.roofline_share:.0%} of the roofline"
        done = len(self._trials)
        self._progress("trials", done, self._num_expected(done), detail=detail)

    def _num_expected(self, done: int) -> int:
        """Return how many trials there will be at this speed, within the budget."""
        total = done + sum(self._plan.num_left(task) for task in self._plan.tasks)
        if self._budget.max_trials is not None:
            total = min(total, self._budget.max_trials)
        if self._budget.max_seconds is not None:
            spent = max(1e-3, time.monotonic() - self._start)
            total = min(total, round(done * self._budget.max_seconds / spent))
        return max(done, total)


@contextmanager
def _workers(target: TargetSpec) -> Iterator[tuple[BuilderPool, Runner]]:
    """Hold builder and runner for the time of the block; nothing of them outlives it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with tempfile.TemporaryDirectory(prefix="ofa-compile-tune-") as folder:
        # One core is left to the runner, so that building does not disturb it.
        builder = BuilderPool(target, max(1, cores - 1), Path(folder))
        try:
            runner = _runner(target, Path(folder))
            try:
                yield builder, runner
            finally:
                runner.close()
        finally:
            builder.close()


def _runner(target: TargetSpec, folder: Path) -> Runner:
    """Return what judges the target's candidates: this machine, boards, or a model of the core."""
    if target.runner.kind == "rpc":
        return _runner_on_boards(target)
    if target.is_gpu:
        from ofa_compile.tuning.gpu_here import GpuHere
        from ofa_compile.tuning.gpu_runner import GpuRunner

        return GpuRunner(target, GpuHere(target.kind))
    if target.is_emulated:
        from ofa_compile.tuning.estimate_runner import EstimateRunner

        return EstimateRunner(target)
    return LocalRunner(target, folder)


def _runner_on_boards(target: TargetSpec) -> Runner:
    from ofa_compile.bundle.manifest import describe_target
    from ofa_compile.remote.program import acquire_target_board, count_free_boards
    from ofa_compile.tuning.board_runner import BoardRunner
    from ofa_compile.tuning.gpu_boards import GpuBoards
    from ofa_compile.tuning.gpu_runner import GpuRunner

    description = describe_target(target)
    num_boards = count_free_boards(description)
    take = partial(acquire_target_board, description)
    if target.is_gpu:
        return GpuRunner(target, GpuBoards(take, num_boards))
    return BoardRunner(target, take, num_boards)
