"""What `tune` says while it works."""

from __future__ import annotations

import pytest

from ofa_compile.compiler.workload import Generic
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.database import TuningRecord, TuningResults
from ofa_compile.tuning.plan import Plan, Task
from ofa_compile.tuning.roofline import Roofline
from ofa_compile.workflows.tuning import _Observer


@pytest.mark.parametrize(("max_trials", "total"), [(None, 64), (40, 40), (1, 1)])
def test_progress_counts_what_a_search_may_still_try(max_trials: int | None, total: int) -> None:
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
    _Observer(plan, [], max_trials, progress)([record])
    assert said == [("trials", 1, total, "speedup 1.000")]
