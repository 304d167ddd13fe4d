"""MetaSchedule's search for schedules of operators without a kernel of ours.

Task (`TuneContext`), space generator with its rules, search strategies, database and cost model are
MetaSchedule's. On CPUs parallel loops are left out: a kernel runs on one thread, and threads share
the work between kernels' tiles. A guided search is made anew for every batch, from all that was
measured, so nothing of it outlives the process that made it; what is kept are traces and times, in
our own database. Building and running do not go through MetaSchedule's interfaces, though our
workers stand behind those as well, for who uses TVM's own tuner (`tuning.metaschedule`): what they
are given is one scheduled function, which tells neither which candidates to time in the same rounds
as the default, nor the packed weights of a hand-written kernel, and MetaSchedule's records have no
place for failures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ofa_compile.compiler.generic_schedules import Trace, plain_trace, traced_schedule
from ofa_compile.compiler.tvm_api import PrimFunc, Target, limit_intrinsics
from ofa_compile.compiler.tvm_api import meta_schedule as ms

_MAX_VECTOR = 64
_UNROLL_STEPS = [0, 16, 64, 512]
# A tenth of MetaSchedule's own: one core proposes 16 candidates in seconds.
_POPULATION = 64
_GENERATIONS = 3
_NEW_SAMPLES = 16

Measured = Sequence[tuple[Trace, float | None]]
"""Traces tried before, and their times in microseconds; None for those that failed."""


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
    context = _task(function, space, "replay-trace", seed)
    nothing = ms.database.MemoryDatabase(), ms.cost_model.RandomModel()
    return _distinct(_candidates(context, count, *nothing))


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
    known = [trace for trace, _ in measured]
    strategy = ms.search_strategy.EvolutionarySearch(
        population_size=_POPULATION,
        init_min_unmeasured=_NEW_SAMPLES,
        genetic_num_iters=_GENERATIONS,
    )
    context = _task(function, space, strategy, seed + len(known))
    experience = _experience(context, function, measured, seed)
    # The search may pick what is known again.
    picked = _candidates(context, len(known) + count, *experience)
    return _distinct([*known, *picked])[len(known) :][:count]


def _task(function: PrimFunc, space: DesignSpace, strategy: Any, seed: int) -> Any:
    """Return MetaSchedule's task: the function, what may be done to it, and how to look."""
    limit_intrinsics()
    return ms.TuneContext(
        mod=function,
        target=space.target,
        space_generator=ms.space_generator.PostOrderApply(
            sch_rules=[space.refine(r) for r in ms.schedule_rule.ScheduleRule.create(space.kind)],
            postprocs=ms.postproc.Postproc.create(space.kind),
            mutator_probs=ms.mutator.Mutator.create(space.kind),
        ),
        search_strategy=strategy,
        rand_state=1 + seed % (2**31 - 2),
        num_threads=1,
    )


def _candidates(context: Any, count: int, database: Any, cost_model: Any) -> list[Trace]:
    context.pre_tuning(
        max_trials=count,
        num_trials_per_iter=count,
        design_spaces=context.generate_design_space(),
        database=database,
        cost_model=cost_model,
    )
    candidates = context.generate_measure_candidates() or []
    return [plain_trace(candidate.sch.trace) for candidate in candidates]


def _distinct(traces: list[Trace]) -> list[Trace]:
    return [trace for number, trace in enumerate(traces) if trace not in traces[:number]]


def _experience(context: Any, function: PrimFunc, measured: Measured, seed: int) -> tuple[Any, Any]:
    """Return MetaSchedule's database and cost model, as the measured schedules leave them."""
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
