"""Trials a minute of MetaSchedule's own builder and runner, and of ours, on the same candidates."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import Any

import numpy as np

from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import load_target

# MetaSchedule's own 30 s are spent on imports where anything else runs on the machine.
_TIMEOUT_S = 300.0
_ROWS, _INPUTS, _OUTPUTS = 196, 96, 128


def compare_parts(trials: int, rounds: int, seed: int) -> dict[str, Any]:
    """Build and run one batch of candidates with each kind of parts, in turn.

    The candidates are sampled once, by MetaSchedule's `replay-trace`, for a 14 x 14 pointwise
    convolution with a ReLU and one thread; searching is not in the times. "lean" is stock whose
    build workers are spared the instructions of tensor cores, by its own `initializer`. All time a
    candidate for five turns of 20 ms.
    """
    from tvm.s_tir import meta_schedule as ms

    from ofa_compile.tuning.metaschedule import IsolatedRunner, WarmBuilder, limit_intrinsics

    limit_intrinsics(*(["x86"] if host_arch() == "x86_64" else []))
    module, target = _operator()
    candidates = _sample(ms, module, target, trials, seed)
    timing = ms.runner.EvaluatorConfig(number=1, repeat=5, min_repeat_ms=20)
    stock_runner = ms.runner.LocalRunner(timeout_sec=_TIMEOUT_S, evaluator_config=timing)
    lean = ms.builder.LocalBuilder(timeout_sec=_TIMEOUT_S, initializer=_leave_out())
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "lean": [], "stock": []}
    with (
        closing(WarmBuilder()) as builder,
        closing(IsolatedRunner(module, timing=timing, threads=1)) as runner,
    ):
        stock = ms.builder.LocalBuilder(timeout_sec=_TIMEOUT_S)
        parts = {
            "ours": (builder, runner),
            "lean": (lean, stock_runner),
            "stock": (stock, stock_runner),
        }
        builder.build([])  # started while the others were made, as while a tuner prepares itself
        for _ in range(rounds):
            for name, (build, run) in parts.items():
                found[name].append(_batch(ms, candidates, target, build, run))
    return {
        "trials": len(candidates),
        "batches": found,
        "trials_per_minute": {
            name: median(60 * len(candidates) / (b["build_s"] + b["run_s"]) for b in batches)
            for name, batches in found.items()
        },
        "time_ours_over_stock": _median_ratio(found["ours"][-1], found["stock"][-1]),
    }


def _operator() -> tuple[Any, Any]:
    import tvm
    from tvm import te

    x = te.placeholder((_ROWS, _INPUTS), "float32", name="x")
    w = te.placeholder((_INPUTS, _OUTPUTS), "float32", name="w")
    k = te.reduce_axis((0, _INPUTS), name="k")
    shape = (_ROWS, _OUTPUTS)
    total = te.compute(shape, lambda i, j: te.sum(x[i, k] * w[k, j], axis=k), name="total")
    zero = tvm.tirx.const(0, "float32")
    y = te.compute(shape, lambda i, j: te.max(total[i, j], zero), name="y")
    target = tvm.target.Target(load_target("host").tvm_target | {"num-cores": 1})
    return tvm.IRModule({"main": te.create_prim_func([x, w, y])}), target


def _sample(ms: Any, module: Any, target: Any, trials: int, seed: int) -> list[Any]:
    context = ms.TuneContext(
        mod=module, target=target, space_generator="post-order-apply",
        search_strategy="replay-trace", rand_state=seed + 1, num_threads=1,
    )  # fmt: skip
    context.pre_tuning(
        max_trials=trials,
        num_trials_per_iter=trials,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(),
    )
    return list(context.generate_measure_candidates())


def _leave_out() -> Callable[[], None]:
    def leave_out() -> None:  # inside a function, so that it is sent as code
        import sys
        import types

        sys.modules.setdefault("tvm.s_tir.tensor_intrin", types.ModuleType("tensor_intrin"))

    return leave_out


def _batch(
    ms: Any, candidates: list[Any], target: Any, builder: Any, runner: Any
) -> dict[str, Any]:
    """Return seconds of building and running, and what was found."""
    import tvm

    inputs = [ms.builder.BuilderInput(c.sch.mod, target) for c in candidates]
    start = time.monotonic()
    built = builder.build(inputs)
    built_at = time.monotonic()
    good = [(b, c) for b, c in zip(built, candidates, strict=True) if b.error_msg is None]
    futures = runner.run(
        [ms.runner.RunnerInput(str(b.artifact_path), "cpu", c.args_info) for b, c in good]
    )
    results = [future.result() for future in futures]
    end = time.monotonic()
    for result, _ in good:
        tvm.get_global_func("s_tir.meta_schedule.remove_build_dir")(str(result.artifact_path))
    return {
        "build_s": built_at - start,
        "run_s": end - built_at,
        "failed": len(candidates) - sum(result.error_msg is None for result in results),
        "times_us": [
            None
            if result.run_secs is None
            else 1e6 * float(np.mean([float(s) for s in result.run_secs]))
            for result in results
        ],
    }


def _median_ratio(ours: dict[str, Any], stock: dict[str, Any]) -> float | None:
    """Say whether both find the same times; None where one of them lost a candidate."""
    if ours["failed"] or stock["failed"]:
        return None
    return median(a / b for a, b in zip(ours["times_us"], stock["times_us"], strict=True))
