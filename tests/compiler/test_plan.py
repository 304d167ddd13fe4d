from __future__ import annotations

import itertools

import numpy as np
import pytest

from ofa_compile.compiler.plan import ALIGNMENT, Plan, Ref, Step, place_buffers, round_up
from ofa_compile.compiler.workload import Add

PAGE = 4096


def chain(sizes: list[int]) -> Plan:
    """Return a plan whose steps each read the buffer before and write the next."""
    plan = Plan((1, 1, 1, 1), (1, 1))
    previous = Ref("input")
    for size in sizes:
        output = plan.new_buffer(size)
        plan.steps.append(Step(Add(size), {}, (previous,), output, 1, size))
        previous = output
    plan.output = previous
    return plan


def random_plan(rng: np.random.Generator, num_steps: int, scratch: bool = True) -> Plan:
    """Steps that read one to three earlier buffers, the input or a constant."""
    plan = Plan((1, 1, 1, 1), (1, 1))
    buffers: list[Ref] = []
    for _ in range(num_steps):
        pool = [Ref("input"), plan.new_constant([1.0]), *buffers]
        chosen = rng.integers(len(pool), size=int(rng.integers(1, 4)))
        arguments = [pool[int(i)] for i in chosen]
        if scratch and rng.random() < 0.3:
            arguments.append(plan.new_buffer(int(rng.integers(1, 3000))))
        size = int(rng.choice([1, 16, 1024, 5000, int(rng.integers(1, 20_000))]))
        output = plan.new_buffer(size)
        plan.steps.append(Step(Add(size), {}, tuple(arguments), output, 1, size))
        buffers.append(output)
    plan.output = buffers[-1]
    return plan


def spans(plan: Plan) -> dict[int, tuple[int, int]]:
    """First and last step in which each buffer is used; the output lives on."""
    found: dict[int, tuple[int, int]] = {}
    for number, step in enumerate(plan.steps):
        for ref in (*step.arguments, step.output):
            if ref.space == "buffer":
                found[ref.index] = (found.get(ref.index, (number, 0))[0], number)
    found[plan.output.index] = (found[plan.output.index][0], len(plan.steps))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_buffers_alive_together_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = random_plan(rng, int(rng.integers(1, 50)))
    offsets, arena = place_buffers(plan)
    lives = spans(plan)
    for a, (start_a, end_a) in lives.items():
        assert offsets[a] % ALIGNMENT == 0
        assert 0 <= offsets[a] <= arena - plan.buffer_bytes[a]
        for b, (start_b, end_b) in lives.items():
            if a < b and start_a <= end_b and start_b <= end_a:
                apart = offsets[a] + plan.buffer_bytes[a] <= offsets[b]
                assert apart or offsets[b] + plan.buffer_bytes[b] <= offsets[a], (a, b)
    # Every buffer on its own, plus at most a page to give it its place within one.
    assert arena <= sum(plan.buffer_bytes[index] + PAGE for index in lives)


def test_a_chain_needs_little_more_than_its_two_largest_neighbours() -> None:
    sizes = [1000, 300_000, 200_000, 100, 250_000, 10]
    _, arena = place_buffers(chain(sizes))
    assert arena <= 4 * (300_000 + 200_000) + 2 * PAGE


def test_neighbours_have_different_places_within_a_page() -> None:
    # Same low 12 bits of addresses make loads wait for stores (see plan.py).
    plan = chain([PAGE] * 10)
    offsets, _ = place_buffers(plan)
    for a, b in itertools.pairwise(offsets):
        assert abs(a % PAGE - b % PAGE) >= 8 * ALIGNMENT


def test_same_plan_same_places() -> None:
    plans = [random_plan(np.random.default_rng(1), 30) for _ in range(2)]
    assert place_buffers(plans[0]) == place_buffers(plans[1])


def test_buffers_and_constants() -> None:
    plan = Plan((1, 1, 1, 1), (1, 1))
    assert plan.new_buffer(1) == Ref("buffer", 0)
    assert plan.new_buffer(17) == Ref("buffer", 1)
    assert plan.buffer_bytes == [64, 128]
    ref = plan.new_constant(np.arange(6).reshape(2, 3).T)
    assert plan.constants[ref.index].tolist() == [0, 3, 1, 4, 2, 5]
    assert plan.constants[ref.index].dtype == np.float32
    assert [round_up(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]
