"""Where buffers of a GPU network lie, and which launches wait for others; needs no device."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.compiler.gpu.backend import Toolkit
from ofa_compile.compiler.gpu.tables import ALIGNMENT, emit_tables
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import Add

WORK = Add(64)


def chain(*steps: tuple[tuple[int, ...], int], num_buffers: int) -> Plan:
    """Return a plan of sums; -1 is the network's input, other numbers are buffers."""
    plan = Plan((1, 1, 8, 8), (1, 64))
    buffers = [plan.new_buffer(64) for _ in range(num_buffers)]
    refs = {-1: Ref("input"), **dict(enumerate(buffers))}
    for inputs, output in steps:
        arguments = tuple(refs[number] for number in inputs)
        plan.steps.append(Step(WORK, {}, arguments, refs[output], 1, 64))
    plan.output = refs[steps[-1][1]]
    return plan


def waits(plan: Plan, tmp_path: Path) -> list[int]:
    shader = tmp_path / "0123456789abcdef0123"
    shader.write_bytes(bytes(68))
    text = emit_tables(
        plan, {"key": shader}, ["key"] * len(plan.steps), "test", Toolkit("1.0")
    ).c_source
    return [int(flag) for flag in re.findall(r"\{0, (\d), ARGUMENTS_\d+\}", text)]


def test_independent_launches_do_not_wait(tmp_path: Path) -> None:
    plan = chain(((-1, -1), 0), ((-1, -1), 1), ((0, 1), 2), num_buffers=3)
    assert waits(plan, tmp_path) == [0, 0, 1]


def test_a_place_that_is_used_again_waits_for_its_readers(tmp_path: Path) -> None:
    # Buffer 3 takes the place of 0 once that is dead, though it depends on nothing.
    plan = chain(((-1, -1), 0), ((0, 0), 1), ((1, 1), 2), ((2, -1), 3), num_buffers=4)
    assert waits(plan, tmp_path) == [0, 1, 1, 1]


def test_offsets_suit_every_device(tmp_path: Path) -> None:
    plan = chain(((-1, -1), 0), ((0, -1), 1), num_buffers=2)
    plan.new_constant(np.ones(3))
    constants = [plan.new_constant(np.full(5, value)) for value in (1, 2)]
    plan.steps.append(Step(WORK, {}, (*constants, plan.output), Ref("buffer", 0), 1, 64))
    plan.output = Ref("buffer", 0)
    shader = tmp_path / "0123456789abcdef0123"
    shader.write_bytes(bytes(68))
    text = emit_tables(plan, {"key": shader}, ["key"] * 3, "test", Toolkit("1.0")).c_source
    arguments = re.findall(r"\{[01], (\d+), (\d+)\}", text)
    assert len(arguments) > 8
    assert all(int(offset) % ALIGNMENT == 0 for offset, _ in arguments)
    arena = int(re.search(r"arena_bytes = (\d+)u", text)[1])  # type: ignore[index]
    assert all(int(offset) + int(size) <= arena for offset, size in arguments)


def test_a_network_beyond_four_gigabytes(tmp_path: Path) -> None:
    plan = chain(((-1, -1), 0), num_buffers=1)
    plan.buffer_bytes[0] = 2**32
    with pytest.raises(Exception, match="bytes on the device"):
        waits(plan, tmp_path)
