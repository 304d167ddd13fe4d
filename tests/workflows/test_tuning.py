"""What `tune` says while it works."""

from __future__ import annotations

import time

import pytest

from ofa_compile.compiler.workload import Generic
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.database import TuningRecord, TuningResults
from ofa_compile.tuning.plan import Plan, Task
from ofa_compile.tuning.roofline import Roofline
from ofa_compile.tuning.tuner import TuningBudget
from ofa_compile.workflows.tuning import _Observer


@pytest.mark.parametrize(
    ("budget", "total"),
    [
        (TuningBudget(), 64),
        (TuningBudget(max_trials=40), 40),
        (TuningBudget(max_trials=1), 1),
        (TuningBudget(max_seconds=20), 10),
        (TuningBudget(max_seconds=20, max_trials=7), 7),
        (TuningBudget(max_seconds=1), 1),
    ],
)
def test_progress_counts_what_a_search_may_still_try(
    monkeypatch: pytest.MonkeyPatch, budget: TuningBudget, total: int
) -> None:
    """One trial took two seconds."""
    times = iter([100.0, 102.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    work = Generic("softmax", "text")
    plan = Plan([Task(work, ({},), 1.0)], TuningResults(), Roofline(load_target("x86-64")))
    said: list[tuple[object, ...]] = []

    def progress(stage: str, done: int = 0, total: int | None = None, *, detail: str = "") -> None:
        said.append((stage, done, total, detail))

    record = TuningRecord(
        workload=work, config={}, fingerprint="m", code="c", status="ok", time_us=2.0,
        is_default=True,
    )  # fmt: skip
    plan.learn(record)
    _Observer(plan, [], budget, progress)([record])
    assert said == [("trials", 1, total, "speedup 1.000")]
