"""The tuning loop: most valuable workload first, default first, stop near the roofline."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from ofa_compile.compiler.workload import Workload
from ofa_compile.errors import TuningError
from ofa_compile.tuning.database import Config, TuningDatabase, TuningRecord
from ofa_compile.tuning.jobs import Builder, BuiltJob, Job, Runner, TrialResult
from ofa_compile.tuning.plan import Plan, Task

logger = logging.getLogger(__name__)

# Give up when all of the first trials fail: then it is not the candidates' fault.
_MIN_FOR_GIVING_UP = 12

# Schedules that a search proposes at a time, before it learns how they did.
_MAX_PROPOSALS = 16

Observer = Callable[[Sequence[TuningRecord]], None]


@dataclass(frozen=True, kw_only=True)
class TuningBudget:
    """Limits of one run; None means none."""

    max_trials: int | None = None
    max_seconds: float | None = None


class Tuner:
    """Tunes the tasks of a plan until all are tuned or the budget is spent.

    Parameters
    ----------
    plan
        What to tune; learns every result.
    database
        Where records go as soon as they are there.
    builder, runner
        Who does the work; they are not closed.
    fingerprint, code
        Go into every record.
    observe
        Called with the records of every finished job.
    """

    def __init__(
        self,
        plan: Plan,
        database: TuningDatabase,
        builder: Builder,
        runner: Runner,
        *,
        fingerprint: str,
        code: str,
        observe: Observer = lambda records: None,
    ) -> None:
        self._plan, self._database = plan, database
        self._builder, self._runner = builder, runner
        self._fingerprint, self._code, self._observe = fingerprint, code, observe
        self._tasks = {task.workload: task for task in plan.tasks}
        self._building: dict[Future[BuiltJob], Job] = {}
        self._built: deque[BuiltJob] = deque()
        self._running: dict[Future[list[TrialResult]], tuple[BuiltJob, float]] = {}
        # On a single core, building would disturb measuring.
        self._takes_turns = _num_cores() == 1
        self._num_started = 0
        self.num_trials = 0
        self.num_failed = 0

    def run(self, budget: TuningBudget) -> None:
        """Tune; everything measured is in the database, whatever ends this.

        Raises
        ------
        TuningError
            If every one of the first trials fails, or candidates cannot be built at all.
        ArtifactError
            If the database cannot be written.
        """
        start = time.monotonic()
        waiting = deque(self._first_jobs())
        while True:
            while waiting and self._may_build():
                room = _trials_left(budget, self._num_started, time.monotonic() - start)
                if room <= 0:
                    waiting.clear()
                    break
                job = waiting.popleft().limited(room)
                self._num_started += job.num_trials
                self._building[self._builder.submit(job)] = job
            self._start_running()
            if not self._building and not self._running:
                if _trials_left(budget, self._num_started, time.monotonic() - start) > 0:
                    # What was measured since may have raised the bound that others stopped near.
                    waiting.extend(self._first_jobs())
                if not waiting:
                    return
                continue
            pending: list[Future[Any]] = [*self._building, *self._running]
            wait(pending, return_when=FIRST_COMPLETED)
            for building in [future for future in self._building if future.done()]:
                self._take_built(building)
            for running in [future for future in self._running if future.done()]:
                waiting.extendleft(self._finish(running))

    def _first_jobs(self) -> list[Job]:
        """Return one job per task that is not tuned."""
        return [job for task in self._plan.tasks if (job := self._next_job(task)) is not None]

    def _next_job(self, task: Task) -> Job | None:
        """Return what a task needs next: the default on its own first; None when it is tuned."""
        default, remaining = task.configs[0], self._plan.remaining(task)
        if default in remaining:
            return Job(task.workload, (default,))
        if remaining:
            # The default again: only what is measured side by side compares.
            return Job(task.workload, (default, *remaining))
        num_proposals = min(_MAX_PROPOSALS, self._plan.num_proposals(task))
        if num_proposals == 0:
            return None
        measured = tuple(self._plan.results.of(task.workload))
        return Job(task.workload, (default,), num_proposals, measured)

    def _take_built(self, future: Future[BuiltJob]) -> None:
        job, built = self._building.pop(future), future.result()
        self._num_started -= job.num_trials - len(built.candidates)
        if job.num_proposals and len(built.candidates) == len(job.configs):
            self._plan.close_search(job.workload)
        self._built.append(built)

    def _may_build(self) -> bool:
        """Whether to start another job: enough to keep everyone busy, and no more."""
        if self._takes_turns and (self._running or self._building or self._built):
            return False
        busy = len(self._building) < self._builder.num_parallel
        return busy and len(self._built) < 2 * self._runner.num_parallel

    def _start_running(self) -> None:
        while self._built and len(self._running) < self._runner.num_parallel:
            if self._takes_turns and self._building:
                return
            built = self._built.popleft()
            self._running[self._runner.submit(built)] = (built, time.monotonic())

    def _finish(self, future: Future[list[TrialResult]]) -> list[Job]:
        """Record a job's results; return the job that they call for, if any."""
        built, started = self._running.pop(future)
        results = future.result()
        seconds = (built.build_s + time.monotonic() - started) / len(results)
        task = self._tasks[built.job.workload]
        records = [
            self._record(task, candidate.config, result, seconds)
            for candidate, result in zip(built.candidates, results, strict=True)
        ]
        self._database.append(records)
        for record in records:
            self._plan.learn(record)
            self.num_trials += 1
            if record.status != "ok":
                self.num_failed += 1
                what = f"{record.workload.kind} {record.workload.key}"
                how = "a trace" if "trace" in record.config else record.config
                logger.warning("%s with %s: %s", what, how, record.error)
        self._check_failures()
        self._observe(records)
        job = self._next_job(task)
        return [] if job is None else [job]

    def _record(
        self, task: Task, config: Config, result: TrialResult, seconds: float
    ) -> TuningRecord:
        workload: Workload = task.workload
        share = None
        if result.time_us is not None:
            share = round(self._plan.roofline.share(workload, result.time_us), 4)
        return TuningRecord(
            workload=workload,
            config=config,
            fingerprint=self._fingerprint,
            code=self._code,
            status=result.status,
            error=result.error,
            time_us=None if result.time_us is None else round(result.time_us, 4),
            spread=None if result.spread is None else round(result.spread, 4),
            roofline_share=share,
            is_default=config == task.configs[0],
            trial_s=round(seconds, 4),
            kind=self._runner.kind,
            board=result.board,
        )

    def _check_failures(self) -> None:
        if self.num_failed == self.num_trials >= _MIN_FOR_GIVING_UP:
            msg = f"all of the first {self.num_trials} trials failed"
            raise TuningError(msg, hint="-v shows why; `ofa-compile doctor` checks the machine")


def _trials_left(budget: TuningBudget, num_trials: int, seconds: float) -> int:
    """Return how many more trials the budget allows; none once the time is up."""
    if budget.max_seconds is not None and seconds >= budget.max_seconds:
        return 0
    return sys.maxsize if budget.max_trials is None else budget.max_trials - num_trials


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
