from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.compiler.fetch_schedule import LINE_BYTES, MACS_PER_BYTE, Fetch, schedule_fetches
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import Pointwise

# What a step of the plans below can fetch at each of its inner steps.
BYTES_PER_STEP = 32
COLUMNS = BYTES_PER_STEP * MACS_PER_BYTE


def plan_of(*steps: tuple[int, int]) -> tuple[Plan, list[int], int]:
    """Return a plan, offsets and size of its blob from (bytes of constants, fetch steps) pairs."""
    plan, offsets, position = Plan((1, 3, 4, 4), (1, 2)), [], 0
    for num_bytes, fetch_steps in steps:
        arguments = [Ref("input")]
        if num_bytes:
            arguments.append(plan.new_constant(np.zeros(num_bytes // 4)))
            offsets.append(position)
            position += num_bytes
        output = plan.new_buffer(2)
        work = Pointwise(1, fetch_steps, COLUMNS)
        plan.steps.append(Step(work, {}, tuple(arguments), output, 1, 2, fetch_steps))
    return plan, offsets, position


def covered(fetch: Fetch, steps: int) -> tuple[int, int]:
    return fetch.start, fetch.start + 4 * fetch.stride * steps


def test_fetches_just_before_they_are_needed() -> None:
    fetches = schedule_fetches(*plan_of((640, 100), (0, 100), (1600, 0)))
    assert fetches == [Fetch(0, 0), Fetch(640, 4), Fetch(0, 0)]


def test_a_stride_rounded_up_begins_earlier_instead_of_ending_later() -> None:
    fetches = schedule_fetches(*plan_of((640, 100), (0, 100), (1408, 0)))
    assert fetches[1] == Fetch(640 + 1408 - 1600, 4)


def test_what_one_step_cannot_fetch_the_one_before_does() -> None:
    size = 3 * BYTES_PER_STEP * 100 // 2
    first, second, last = schedule_fetches(*plan_of((6400, 100), (0, 100), (size, 0)))
    assert covered(second, 100) == (6400 + size - 3200, 6400 + size)
    begin, end = covered(first, 100)
    assert begin == 6400
    assert end >= 6400 + size - 3200
    assert last == Fetch(0, 0)


def test_no_more_than_a_line_at_a_time() -> None:
    plan, offsets, size = plan_of((0, 1000), (10**6, 0))
    work = Pointwise(1, 1000, 100 * LINE_BYTES * MACS_PER_BYTE)
    plan.steps[0] = Step(work, {}, (), plan.output, 1, 2, 1000)
    fetch = schedule_fetches(plan, offsets, size)[0]
    assert fetch == Fetch(size - 1000 * LINE_BYTES, LINE_BYTES // 4)


def test_never_reads_beyond_the_blob() -> None:
    # 64 bytes over a million steps: even the smallest stride would run far past the end.
    assert schedule_fetches(*plan_of((0, 10**6), (64, 0)))[0] == Fetch(0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_random_plans(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = [(64 * int(rng.integers(0, 50)), int(rng.integers(0, 200))) for _ in range(12)]
    plan, offsets, size = plan_of(*steps)
    for (_, fetch_steps), fetch in zip(steps, schedule_fetches(plan, offsets, size), strict=True):
        begin, end = covered(fetch, fetch_steps)
        assert 0 <= begin <= end <= size
        assert 4 * fetch.stride <= BYTES_PER_STEP


def test_a_plan_without_constants_fetches_nothing() -> None:
    assert schedule_fetches(*plan_of((0, 50), (0, 0))) == [Fetch(0, 0), Fetch(0, 0)]
