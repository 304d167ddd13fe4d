"""Compile a subnet as TVM does out of the box, for comparison with ours."""

from __future__ import annotations

import functools
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import load_target

_TIMEOUT_S = 60.0
# A search of its default size (512 candidates, four generations) takes 20 s a kernel, however few
# trials come of it.
_POPULATION, _GENERATIONS, _NEW = 48, 2, 16


def build_stock_tvm(
    onnx_file: Path,
    library: Path,
    *,
    threads: int = 1,
    database: Path | None = None,
    trials: int = 4,
) -> None:
    """Build a Relax library with default schedules, or tuned by MetaSchedule.

    Parameters
    ----------
    onnx_file, library
        What to compile, and the file to write.
    threads
        Cores to schedule for.
    database
        Folder of MetaSchedule's records; None for TVM's default schedules. A kernel that has some
        is not tuned again, so networks share what they have in common, and an interrupted build
        goes on.
    trials
        MetaSchedule's trials for each other kernel.
    """
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    target = tvm.target.Target(load_target("host").tvm_target | {"num-cores": threads})
    module = from_onnx(onnx.load(onnx_file), keep_params_in_input=False)
    with target:
        if database is not None:
            module = _tuned(relax.get_pipeline("zero")(module), target, trials, database)
        built = relax.build(module, target, relax_pipeline=relax.get_default_pipeline(target))
    built.export_library(str(library))


def _tuned(module: Any, target: Any, trials: int, folder: Path) -> Any:
    """Tune the kernels that the database does not know, then let it replace them all.

    MetaSchedule's space, search, cost model, runner and database; candidates are built by our warm
    worker, since its own imports TVM anew for every batch, which takes longer than the batch.
    """
    from tvm import relax
    from tvm.s_tir import meta_schedule as ms
    from tvm.s_tir.meta_schedule import relax_integration

    from ofa_compile.tuning.metaschedule import WarmBuilder, limit_intrinsics

    limit_intrinsics(*(["x86"] if host_arch() == "x86_64" else []))
    database = _open(folder)
    runner = ms.runner.LocalRunner(
        timeout_sec=_TIMEOUT_S,
        evaluator_config=ms.runner.EvaluatorConfig(number=1, repeat=3, min_repeat_ms=20),
    )
    with closing(WarmBuilder()) as builder:
        for task in relax_integration.extract_tasks(module, target):
            if _is_known(database, task.dispatched[0]):
                continue
            strategy = ms.search_strategy.EvolutionarySearch(
                population_size=_POPULATION,
                init_min_unmeasured=_NEW,
                genetic_num_iters=_GENERATIONS,
            )
            with tempfile.TemporaryDirectory(prefix="ofa-compile-tvm-") as logs:
                contexts, weights = relax_integration.extracted_tasks_to_tune_contexts(
                    [task], logs, strategy=strategy, num_threads=1, seed=1
                )
                ms.tune_tasks(
                    tasks=contexts, task_weights=weights, work_dir=logs,
                    max_trials_global=trials, max_trials_per_task=trials,
                    num_trials_per_iter=trials, task_scheduler="round-robin",
                    builder=builder, runner=runner, database=database,
                )  # fmt: skip
    with database:
        return relax.transform.MetaScheduleApplyDatabase()(module)


@functools.cache
def _open(folder: Path) -> Any:
    """Open a database, once: reading some thousands of records takes most of a minute."""
    from tvm.s_tir import meta_schedule as ms

    folder.mkdir(parents=True, exist_ok=True)
    return ms.database.JSONDatabase(work_dir=str(folder))


def _is_known(database: Any, workload: Any) -> bool:
    if not database.has_workload(workload):
        return False
    return len(database.get_top_k(database.commit_workload(workload), 1)) > 0
