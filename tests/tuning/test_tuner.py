"""The tuning loop with stand-ins for builder and runner."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.compiler.workload import Generic, Pointwise, Workload
from ofa_compile.errors import ArtifactError, TuningError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.database import Config, LatencyKind, TuningDatabase, TuningResults
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, Job, TrialResult
from ofa_compile.tuning.plan import Plan, StopRule, Task, make_tasks
from ofa_compile.tuning.report import gains, speedup
from ofa_compile.tuning.roofline import Roofline
from ofa_compile.tuning.tuner import Tuner, TuningBudget

LARGE, SMALL = Pointwise(3136, 24, 72), Pointwise(49, 24, 40)
CONFIGS: tuple[Config, ...] = ({"vectors": 1}, {"vectors": 2}, {"vectors": 3})
TIMES = {1: 9000.0, 2: 7000.0, 3: 8000.0}


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future


class FakeBuilder:
    num_parallel = 2

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def describe(self, workloads: Sequence[Workload]) -> list[list[Config]]:
        return [list(CONFIGS) for _ in workloads]

    def submit(self, job: Job) -> Future[BuiltJob]:
        self.jobs.append(job)
        return done(BuiltJob(job, tuple(BuiltCandidate(c) for c in job.configs), 0.1))

    def close(self) -> None: ...


class FakeRunner:
    kind: LatencyKind = "measurement"
    num_parallel = 1

    def __init__(self, failing: dict[int, TrialResult] | None = None) -> None:
        self.failing = failing or {}

    def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
        return done([self.result(candidate.config["vectors"]) for candidate in built.candidates])

    def result(self, vectors: int) -> TrialResult:
        ok = TrialResult("ok", None, TIMES[vectors], 0.01)
        return self.failing.get(vectors, ok)

    def close(self) -> None: ...


def make_plan(database: TuningDatabase, *tasks: Task, share: float = 9.0) -> Plan:
    results = database.results("machine", "code") if database.path.exists() else TuningResults()
    roofline = Roofline(load_target("x86-64"))
    return Plan(tasks, results, roofline, StopRule(roofline_share=share))


def task(workload: Workload, count: float = 1.0) -> Task:
    return Task(workload, CONFIGS, count)


def tune(
    path: Path,
    *tasks: Task,
    runner: FakeRunner | None = None,
    budget: TuningBudget | None = None,
    share: float = 9.0,
) -> tuple[FakeBuilder, Plan]:
    database, builder = TuningDatabase(path), FakeBuilder()
    plan = make_plan(database, *tasks, share=share)
    tuner = Tuner(
        plan, database, builder, runner or FakeRunner(), fingerprint="machine", code="code"
    )
    tuner.run(budget or TuningBudget())
    return builder, plan


def test_the_most_valuable_comes_first_and_defaults_before_alternatives(tmp_path: Path) -> None:
    builder, plan = tune(tmp_path / "t.jsonl", task(SMALL), task(LARGE))
    assert builder.jobs[0] == Job(LARGE, CONFIGS[:1])
    for workload in (LARGE, SMALL):
        jobs = [job.configs for job in builder.jobs if job.workload == workload]
        assert jobs == [CONFIGS[:1], CONFIGS]
    assert plan.results.configs() == {LARGE.key: {"vectors": 2}, SMALL.key: {"vectors": 2}}
    coverage = plan.coverage()
    assert (coverage.num_tuned, coverage.num_trials, coverage.time_share) == (2, 0, 1.0)
    assert speedup(plan) == pytest.approx(9 / 7)
    assert [gain["best"] for gain in gains(plan)] == [{"vectors": 2}] * 2


def test_a_workload_used_often_goes_before_a_long_one(tmp_path: Path) -> None:
    builder, _ = tune(tmp_path / "t.jsonl", task(LARGE), task(SMALL, count=1000.0))
    assert builder.jobs[0].workload == SMALL


def test_a_second_run_skips_what_is_tuned(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    tune(path, task(LARGE))
    before = path.read_bytes()
    builder, _ = tune(path, task(LARGE))
    assert builder.jobs == []
    assert path.read_bytes() == before


def test_a_run_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    builder, plan = tune(path, task(LARGE), task(SMALL), budget=TuningBudget(max_trials=3))
    assert sum(len(job.configs) for job in builder.jobs) == 3
    assert 0 < plan.coverage().num_trials < 6
    _, plan = tune(path, task(LARGE), task(SMALL))
    assert plan.coverage().num_trials == 0


def test_no_time_means_no_trials(tmp_path: Path) -> None:
    builder, plan = tune(tmp_path / "t.jsonl", task(LARGE), budget=TuningBudget(max_seconds=0.0))
    assert builder.jobs == []
    assert plan.coverage().time_share == 0.0


def test_near_the_roofline_alternatives_are_left_out(tmp_path: Path) -> None:
    others = [task(Pointwise(rows, 480, 112)) for rows in range(100, 108)]
    # The peak is known after eight workloads, and everything is "near" a share of nothing.
    builder, _ = tune(tmp_path / "t.jsonl", *others, task(SMALL), share=1e-9)
    assert [job for job in builder.jobs if job.workload == SMALL] == [Job(SMALL, CONFIGS[:1])]


def test_a_bound_raised_later_calls_for_what_was_left_out(tmp_path: Path) -> None:
    """Eight workloads define the peak; a ninth is near it, until the tenth runs twice as fast."""
    bound = Roofline(load_target("x86-64"))
    fast = Pointwise(7, 480, 112)

    class Timed(FakeRunner):
        def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
            work = built.job.workload
            time_us = bound.time_us(work) / (2 if work == fast else 1)
            return done([TrialResult("ok", None, time_us, 0.0) for _ in built.candidates])

    others = [task(Pointwise(rows, 480, 112), 100.0) for rows in range(100, 108)]
    tasks = [*others, task(SMALL), task(fast, 1e-3)]
    builder, plan = tune(tmp_path / "t.jsonl", *tasks, runner=Timed(), share=0.9)
    tries = [job.configs for job in builder.jobs if job.workload == SMALL]
    assert tries == [CONFIGS[:1], CONFIGS]
    assert plan.coverage().num_trials == 0


class SearchingBuilder(FakeBuilder):
    """Proposes traces with ascending numbers, as many as there are."""

    def __init__(self, num_traces: int) -> None:
        super().__init__()
        self.traces = [{"trace": [number]} for number in range(num_traces)]

    def submit(self, job: Job) -> Future[BuiltJob]:
        self.jobs.append(job)
        found, self.traces = self.traces[: job.num_proposals], self.traces[job.num_proposals :]
        configs = (*job.configs, *found)
        return done(BuiltJob(job, tuple(BuiltCandidate(c) for c in configs), 0.1))


class SearchedRunner(FakeRunner):
    def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
        return done([TrialResult("ok", None, 5.0, 0.0) for _ in built.candidates])


@pytest.mark.parametrize(
    ("num_traces", "max_trials", "trials"),
    [(100, None, [1, 17, 17, 17, 16]), (20, None, [1, 17, 5, 1]), (100, 10, [1, 9])],
)
def test_a_search_goes_on_from_what_was_measured(
    tmp_path: Path, num_traces: int, max_trials: int | None, trials: list[int]
) -> None:
    """Batches of 16 beside the default, until 64 are tried or nothing new is found."""
    database, builder = TuningDatabase(tmp_path / "t.jsonl"), SearchingBuilder(num_traces)
    plan = make_plan(database, Task(Generic("softmax", "text"), ({},), 1.0))
    assert plan.coverage().num_trials == 64
    runner, sizes = SearchedRunner(), list[int]()
    tuner = Tuner(
        plan,
        database,
        builder,
        runner,
        fingerprint="machine",
        code="code",
        observe=lambda records: sizes.append(len(records)),
    )
    tuner.run(TuningBudget(max_trials=max_trials))
    assert sizes == trials
    assert [len(job.measured) for job in builder.jobs][:3] == [0, 1, 17][: len(trials)]
    assert (plan.coverage().num_trials == 0) == (max_trials is None)


def test_failures_are_recorded_and_not_chosen(tmp_path: Path) -> None:
    failing = {
        2: TrialResult("wrong", "differs by 3.0e-01"),
        3: TrialResult("crash", "the worker ended with SIGILL"),
    }
    path = tmp_path / "t.jsonl"
    _, plan = tune(path, task(LARGE), runner=FakeRunner(failing))
    assert plan.results.configs() == {LARGE.key: {"vectors": 1}}
    statuses = {tuple(r.config.values()): (r.status, r.error) for r in TuningDatabase(path)}
    assert statuses[2,] == ("wrong", "differs by 3.0e-01")
    assert statuses[3,] == ("crash", "the worker ended with SIGILL")
    builder, _ = tune(path, task(LARGE))
    assert builder.jobs == []  # a failure counts as tried


def test_when_everything_fails_the_tuner_gives_up(tmp_path: Path) -> None:
    failing = {n: TrialResult("crash", "SIGSEGV") for n in (1, 2, 3)}
    tasks = [task(Pointwise(rows, 8, 8)) for rows in range(1, 30)]
    with pytest.raises(TuningError, match=r"all of the first 1\d trials failed"):
        tune(tmp_path / "t.jsonl", *tasks, runner=FakeRunner(failing))


def test_a_database_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    database = TuningDatabase(path)
    plan = Plan([task(LARGE)], TuningResults(), Roofline(load_target("x86-64")))
    tuner = Tuner(plan, database, FakeBuilder(), FakeRunner(), fingerprint="m", code="c")
    with pytest.raises(ArtifactError, match="cannot append to"):
        tuner.run(TuningBudget())


def test_workloads_without_a_kernel_are_no_tasks() -> None:
    tasks = make_tasks({LARGE: 1.0, SMALL: 2.0}, [[], [{"vectors": 1}]])
    assert tasks == [Task(SMALL, ({"vectors": 1},), 2.0)]
