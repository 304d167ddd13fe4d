"""MetaSchedule's search for schedules of operators without a kernel of ours.

Task (`TuneContext`), space generator with its rules for CPUs, evolutionary search, database and
cost model are MetaSchedule's. A search is made anew for every batch, from all that was measured, so
nothing of it outlives the process that made it; what is kept are traces and times, in our own
database. Its builder and runner interfaces are not used: what they are given is one scheduled
function, which tells neither what is right (every candidate is checked), nor which candidates to
time in the same rounds, nor the packed weights of a hand-written kernel, and MetaSchedule's records
have no place for failures.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any

from ofa_compile.compiler.generic_schedules import (
    DesignSpace,
    Trace,
    plain_trace,
    traced_schedule,
)
from ofa_compile.compiler.tvm_api import PrimFunc

# A tenth of MetaSchedule's own: one core proposes 16 candidates in seconds.
_POPULATION = 64
_GENERATIONS = 3
_NEW_SAMPLES = 16

Measured = Sequence[tuple[Trace, float | None]]
"""Traces tried before, and their times in microseconds; None for those that failed."""


def search(
    function: PrimFunc,
    space: DesignSpace,
    count: int,
    *,
    seed: int,
    measured: Measured = (),
) -> list[Trace]:
    """Return up to `count` schedules worth measuring; the same arguments give the same ones.

    Parameters
    ----------
    function
        What to schedule.
    space
        Rules and machine.
    count
        How many; none where the space has no other.
    seed
        Of the search.
    measured
        What guides it; without, it is random.
    """
    ms = _meta_schedule()
    known = [trace for trace, _ in measured]
    context = ms.TuneContext(
        mod=function,
        target=space.target,
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules=[space.refine(r) for r in ms.schedule_rule.ScheduleRule.create(space.kind)],
            postprocs=ms.postproc.Postproc.create(space.kind),
            mutator_probs=ms.mutator.Mutator.create(space.kind),
        ),
        search_strategy=ms.search_strategy.EvolutionarySearch(
            population_size=_POPULATION,
            init_min_unmeasured=_NEW_SAMPLES,
            genetic_num_iters=_GENERATIONS,
        ),
        rand_state=1 + (seed + len(known)) % (2**31 - 2),
        num_threads=1,
    )
    database, cost_model = _experience(context, function, measured, seed)
    # The search may pick what is known again.
    num_picked = len(known) + count
    context.pre_tuning(
        max_trials=num_picked,
        num_trials_per_iter=num_picked,
        design_spaces=context.generate_design_space(),
        database=database,
        cost_model=cost_model,
    )
    candidates = context.generate_measure_candidates() or []
    traces = [*known, *(plain_trace(candidate.sch.trace) for candidate in candidates)]
    fresh = [t for number, t in enumerate(traces) if t not in traces[:number]]
    return fresh[len(known) :][:count]


def _experience(context: Any, function: PrimFunc, measured: Measured, seed: int) -> tuple[Any, Any]:
    """Return MetaSchedule's database and cost model, as the measured schedules leave them."""
    ms = _meta_schedule()
    database = ms.database.MemoryDatabase()
    if not measured:
        return database, ms.cost_model.RandomModel(seed=seed % 2**31)
    workload = database.commit_workload(context.mod)
    arguments = ms.arg_info.ArgInfo.from_entry_func(context.mod, remove_preproc=True)
    candidates, results = [], []
    for trace, time_us in measured:
        schedule = traced_schedule(function, trace)
        seconds = None if time_us is None else [time_us * 1e-6]
        if seconds is not None:
            record = ms.database.TuningRecord(
                schedule.trace, workload, seconds, context.target, arguments
            )
            database.commit_tuning_record(record)
        candidates.append(ms.MeasureCandidate(schedule, arguments))
        results.append(ms.runner.RunnerResult(seconds, None if seconds else "failed"))
    cost_model = ms.cost_model.XGBModel(num_warmup_samples=1, num_tuning_cores=1)
    cost_model.update(context, candidates, results)
    return database, cost_model


def _meta_schedule() -> Any:
    # TuneContext imports the intrinsics of every accelerator, which parses scripts for twenty
    # seconds; float32 on a CPU uses none of them.
    sys.modules.setdefault("tvm.s_tir.tensor_intrin", types.ModuleType("tensor_intrin"))
    from tvm.s_tir import meta_schedule

    return meta_schedule
