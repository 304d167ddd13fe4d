"""Schedules for operators without a kernel of ours, from MetaSchedule's generated space.

A task (`TuneContext`), the space generator with its rules, and random sampling of the space are
MetaSchedule's; a schedule is kept as its trace, in JSON. On CPUs parallel loops are left out: a
kernel runs on one thread, and threads share the work between kernels' tiles.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ofa_compile.compiler.tvm_api import PrimFunc, Target, s_tir, tvm
from ofa_compile.errors import BuildError

Trace = list[Any]

_MAX_VECTOR = 64
_UNROLL_STEPS = [0, 16, 64, 512]


def parse_function(text: str) -> PrimFunc:
    """Read a PrimFunc back from `script_of`'s text (of our own making)."""
    return tvm.script.from_source(text)


@dataclass(frozen=True)
class DesignSpace:
    """Where schedules come from: MetaSchedule's rules for a kind of machine, and the machine."""

    kind: str
    target: Target
    refine: Callable[[Any], Any]
    """Changes one of its rules, or leaves it as it is."""


def cpu_space(tvm_target: Mapping[str, Any]) -> DesignSpace:
    """Return the space of schedules for one thread of a CPU."""
    return DesignSpace("llvm", Target({**tvm_target, "num-cores": 1}), _without_threads)


def propose(function: PrimFunc, space: DesignSpace, count: int, *, seed: int) -> list[Trace]:
    """Sample up to `count` different schedules; the same arguments give the same ones."""
    # TuneContext imports the intrinsics of every accelerator, which parses scripts for twenty
    # seconds; float32 uses none of them.
    sys.modules.setdefault("tvm.s_tir.tensor_intrin", types.ModuleType("tensor_intrin"))
    from tvm.s_tir import meta_schedule as ms

    rules = [space.refine(rule) for rule in ms.schedule_rule.ScheduleRule.create(space.kind)]
    generator = ms.space_generator.PostOrderApply(
        sch_rules=rules,
        postprocs=ms.postproc.Postproc.create(space.kind),
        mutator_probs=ms.mutator.Mutator.create(space.kind),
    )
    context = ms.TuneContext(
        mod=function,
        target=space.target,
        space_generator=generator,
        search_strategy="replay-trace",
        rand_state=1 + seed % (2**31 - 2),
        num_threads=1,
    )
    context.pre_tuning(
        max_trials=count,
        num_trials_per_iter=count,
        design_spaces=context.generate_design_space(),
        database=ms.database.MemoryDatabase(),
        cost_model=ms.cost_model.RandomModel(),
    )
    candidates = context.generate_measure_candidates() or []
    traces = [plain_trace(candidate.sch.trace) for candidate in candidates]
    return [trace for number, trace in enumerate(traces) if trace not in traces[:number]]


def _without_threads(rule: Any) -> Any:
    """Leave parallel loops out of a rule for CPUs."""
    from tvm.s_tir.meta_schedule.schedule_rule import ParallelizeVectorizeUnroll

    if not isinstance(rule, ParallelizeVectorizeUnroll):
        return rule
    return ParallelizeVectorizeUnroll(
        max_jobs_per_core=-1,
        max_vectorize_extent=_MAX_VECTOR,
        unroll_max_steps=_UNROLL_STEPS,
        unroll_explicit=True,
    )


def apply_trace(function: PrimFunc, trace: Trace) -> PrimFunc:
    """Schedule a function as a trace says.

    Raises
    ------
    BuildError
        If the trace is not one of this function.
    """
    (scheduled,) = traced_schedule(function, trace).mod.functions.values()
    return scheduled


def traced_schedule(function: PrimFunc, trace: Trace) -> Any:
    """Return TVM's schedule of a function after the steps of a trace; raises as `apply_trace`."""
    from tvm.s_tir.schedule import Trace as TvmTrace

    schedule = s_tir.Schedule(function)
    try:
        TvmTrace.apply_json_to_schedule(trace, schedule)
    except Exception as err:  # TVM's errors share no class of their own
        msg = f"a tuned schedule does not fit its operator: {str(err)[:200]}"
        raise BuildError(msg, hint="tune again with this version") from err
    return schedule


def plain_trace(trace: Any) -> Trace:
    """Turn TVM's trace into JSON values."""
    return _plain(trace.as_json())  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    """Turn TVM's arrays, integers and texts into Python's."""
    if isinstance(value, bool | int | float | str) or value is None:
        return str(value) if isinstance(value, str) else value
    if hasattr(value, "value"):
        return value.value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value]
