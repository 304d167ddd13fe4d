"""What to tune, in which order, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ofa_compile.compiler.workload import Generic, Separable, Workload
from ofa_compile.tuning.database import Config, TuningRecord, TuningResults, config_key
from ofa_compile.tuning.roofline import Roofline

# Per trial where no record tells: building and measuring on a Zen 4 core at 2.6 GHz took 0.1 s.
_TRIAL_S = 0.15


@dataclass(frozen=True)
class Task:
    """One workload to tune.

    Attributes
    ----------
    workload
        What.
    configs
        Alternatives, the kernel's default first.
    expected_count
        How often a uniformly drawn subnet has it.
    """

    workload: Workload
    configs: tuple[Config, ...]
    expected_count: float

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose from."""
        return len(self.configs) == 1 and not self.is_searched

    @property
    def is_searched(self) -> bool:
        """Whether a search adds configurations, guided by what was measured."""
        return isinstance(self.workload, Generic) and len(self.configs) == 1


@dataclass(frozen=True, kw_only=True)
class StopRule:
    """When a workload counts as tuned.

    Attributes
    ----------
    roofline_share
        Stop once a configuration comes this close to the bound.
    max_trials
        Configurations to try at most.
    """

    roofline_share: float = 0.95
    max_trials: int = 64

    def is_near(self, task: Task, results: TuningResults, roofline: Roofline) -> bool:
        """Tell whether a workload's best time is close enough to its bound."""
        best = results.best(task.workload)
        if best is None or best.time_us is None or not roofline.is_known:
            return False
        return roofline.share(task.workload, best.time_us) >= self.roofline_share


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a space is tuned.

    Attributes
    ----------
    num_workloads, num_tuned
        Workloads in the union, and those that need no further trial.
    num_fixed
        Those whose kernel has one configuration only: it is timed, and nothing is chosen.
    time_share
        Expected share of a random subnet's time that the tuned ones make up.
    num_trials
        Trials that remain, at most.
    forecast_s
        Time they would take; half of it or less where defaults are near the roofline.
    """

    num_workloads: int
    num_tuned: int
    num_fixed: int
    time_share: float
    num_trials: int
    forecast_s: float


class Plan:
    """The tasks of a space in order of value, seen against what is tuned already.

    Parameters
    ----------
    tasks
        All workloads that a kernel serves.
    results
        What was measured so far; the tuner adds to it.
    roofline
        Bounds of the core.
    stop
        When a workload counts as tuned.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        results: TuningResults,
        roofline: Roofline,
        stop: StopRule | None = None,
    ) -> None:
        self.results = results
        self.roofline = roofline
        self.stop = stop or StopRule()
        self._exhausted: set[Workload] = set()
        for record in results.history:
            self._learn_bounds(record)
        self.tasks = sorted(tasks, key=lambda task: (-self.weight_us(task), task.workload.key))

    def learn(self, record: TuningRecord) -> None:
        """Take one more record into account."""
        self.results.add(record)
        self._learn_bounds(record)

    def _learn_bounds(self, record: TuningRecord) -> None:
        if record.time_us is not None and record.status == "ok":
            self.roofline.learn(record.workload, record.time_us)

    def weight_us(self, task: Task) -> float:
        """Return the expected time of a task's workload in a random subnet, in microseconds.

        None for two workloads at once: their time is that of the parts, which are tuned first.
        """
        if isinstance(task.workload, Separable):
            return 0.0
        best = self.results.best(task.workload)
        time_us = best.time_us if best is not None else None
        return task.expected_count * (time_us or self.roofline.time_us(task.workload))

    def remaining(self, task: Task) -> tuple[Config, ...]:
        """Return the known configurations still to be tried; none when the workload is tuned."""
        if self.stop.is_near(task, self.results, self.roofline):
            return ()
        tried = self.results.tried(task.workload)
        known = task.configs[: self.stop.max_trials]
        return tuple(config for config in known if config_key(config) not in tried)

    def num_proposals(self, task: Task) -> int:
        """Return how many configurations a search may still add."""
        is_over = not task.is_searched or task.workload in self._exhausted
        if is_over or self.stop.is_near(task, self.results, self.roofline):
            return 0
        num_seen = len(self.results.tried(task.workload)) + len(self.remaining(task))
        return max(0, self.stop.max_trials - num_seen)

    def num_left(self, task: Task) -> int:
        """Return how many trials a task still takes, at most."""
        return len(self.remaining(task)) + self.num_proposals(task)

    def close_search(self, workload: Workload) -> None:
        """Take note that a search has nothing more to propose."""
        self._exhausted.add(workload)

    def coverage(self) -> Coverage:
        """Say how much is tuned, and how long the rest takes."""
        remaining = [self.num_left(task) for task in self.tasks]
        weights = [self.weight_us(task) for task in self.tasks]
        tuned = sum(weight for weight, left in zip(weights, remaining, strict=True) if not left)
        num_trials = sum(remaining)
        return Coverage(
            num_workloads=len(self.tasks),
            num_tuned=remaining.count(0),
            num_fixed=sum(task.is_fixed for task in self.tasks),
            time_share=tuned / sum(weights) if weights else 1.0,
            num_trials=num_trials,
            forecast_s=num_trials * self._trial_s(),
        )

    def _trial_s(self) -> float:
        """Return the mean time of a trial, from the records where there are enough."""
        times = [record.trial_s for record in self.results.history if record.trial_s > 0]
        return sum(times) / len(times) if len(times) >= 10 else _TRIAL_S


def make_tasks(union: Mapping[Workload, float], configs: Sequence[Sequence[Config]]) -> list[Task]:
    """Pair the workloads of a union with their kernels' configurations; drop those without."""
    return [
        Task(workload, tuple(choices), count)
        for (workload, count), choices in zip(union.items(), configs, strict=True)
        if choices
    ]
