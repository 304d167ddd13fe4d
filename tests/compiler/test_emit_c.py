from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.compiler.emit_c import emit_network, grain
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.compiler.plan import ALIGNMENT, Plan, Ref, Step
from ofa_compile.compiler.workload import Add, GlobalPool, Pointwise


def step(workload: Pointwise | Add | GlobalPool, tiles: int, values: int = 1) -> Step:
    return Step(workload, {}, (Ref("input"),), Ref("buffer"), tiles, values)


def plan_with(*constants: np.ndarray) -> Plan:
    plan = Plan((1, 3, 4, 4), (1, 2))
    refs = tuple(plan.new_constant(c) for c in constants)
    output = plan.new_buffer(2)
    plan.steps.append(Step(Add(2), {}, (Ref("input"), *refs), output, 1, 2))
    plan.output = output
    return plan


def weight_offsets(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"WEIGHTS\((\d+)\)", text)]


def test_equal_constants_share_their_place() -> None:
    a, b = np.arange(5, dtype=np.float32), np.ones(20, np.float32)
    source = emit_network(plan_with(a, b, a.copy(), b[:5]), {0: "kernel"}, "v")
    first, second, third, fourth = weight_offsets(source.c_source)
    assert first == third
    assert len({first, second, fourth}) == 3
    assert all(offset % ALIGNMENT == 0 for offset in (first, second, fourth))
    for offset, data in ((first, a), (second, b), (fourth, b[:5])):
        stored = np.frombuffer(source.weights, "<f4", len(data), offset)
        np.testing.assert_array_equal(stored, data)


def test_zeros_of_either_sign_are_not_equal() -> None:
    source = emit_network(plan_with(np.zeros(3), np.full(3, -0.0)), {0: "kernel"}, "v")
    first, second = weight_offsets(source.c_source)
    assert first != second


def test_a_network_without_constants_still_has_a_blob() -> None:
    assert len(emit_network(plan_with(), {0: "kernel"}, "v").weights) == ALIGNMENT


def test_is_strict_c11_and_declares_a_shared_kernel_once(tmp_path: Path) -> None:
    plan = plan_with(np.ones(3))
    plan.steps.append(Step(Add(2), {}, (plan.output, Ref("constant", 0)), plan.new_buffer(2), 1))
    plan.output = Ref("buffer", 1)
    source = emit_network(plan, {0: "kernel", 1: "kernel"}, "text with % and {braces}")
    assert source.c_source.count("void kernel(") == 1
    (tmp_path / "network.c").write_text(source.c_source)
    (tmp_path / "weights.bin").write_bytes(source.weights)
    flags = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{runtime_folder()}"]
    command = ["gcc", *flags, "-c", "network.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_same_plan_same_text() -> None:
    sources = [emit_network(plan_with(np.ones(3)), {0: "kernel"}, "v") for _ in range(2)]
    assert sources[0] == sources[1]


@pytest.mark.parametrize("tiles", [1, 7, 1000])
def test_tiny_steps_are_one_claim(tiles: int) -> None:
    assert grain(step(Add(10), tiles, 10)) == tiles


def test_large_tiles_are_claimed_one_by_one() -> None:
    assert grain(step(Pointwise(1000, 1000, 1000), 100)) == 1


def test_claims_are_worth_a_few_microseconds(rng: np.random.Generator) -> None:
    for _ in range(200):
        rows, depth, columns, tiles = (int(n) for n in rng.integers(8, 600, 4))
        work = Pointwise(rows, depth, columns)
        size = grain(step(work, tiles))
        assert 1 <= size <= tiles
        per_tile = max(1, work.macs // tiles)
        if size < tiles:
            assert 100_000 <= size * per_tile < 100_000 + per_tile


def test_memory_bound_steps_count_their_values() -> None:
    # No multiply-accumulates, yet enough work to share.
    assert 1 < grain(step(Add(200_000), 60, 200_000)) < 60
    # It is what a pool reads that counts, and the weights of a product with one row.
    assert grain(step(GlobalPool(1, 784, 240), 4, 240)) == 1
    assert grain(step(Pointwise(1, 672, 168), 3, 168)) == 1
    assert grain(step(Pointwise(1, 72, 24), 2, 24)) == 2
