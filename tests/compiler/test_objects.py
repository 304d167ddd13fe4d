from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ofa_compile.cache import Cache
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.objects import (
    code_fingerprint,
    compile_objects,
    object_key,
    symbol_of,
)
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import Add
from ofa_compile.hardware.target_spec import load_target


def step(size: int, **config: int) -> Step:
    return Step(Add(size), config, (Ref("input"), Ref("input")), Ref("buffer"), 1, size)


def test_key_depends_on_workload_configuration_and_target() -> None:
    targets = [load_target(name) for name in ("x86-64", "x86-64-avx512", "arm64", "cortex-a72")]
    keys = {object_key(step(10), target) for target in targets}
    keys |= {object_key(step(10, rows=4), targets[0]), object_key(step(11), targets[0])}
    assert len(keys) == len(targets) + 2
    narrow = dataclasses.replace(targets[0].core, vector_registers=8)
    assert object_key(step(10), dataclasses.replace(targets[0], core=narrow)) not in keys


def test_key_ignores_what_does_not_change_the_code() -> None:
    target = load_target("x86-64")
    other = dataclasses.replace(target, name="other", description="something else")
    assert object_key(step(10), target) == object_key(step(10), other)
    assert symbol_of(step(10), target) == symbol_of(step(10), other)


def test_fingerprint_is_that_of_the_sources() -> None:
    assert code_fingerprint() == code_fingerprint()
    assert len(code_fingerprint()) == 64


def test_equal_steps_share_one_object(tmp_path: Path) -> None:
    target = load_target("x86-64")
    core, cache = VectorMachine.of(target), Cache(tmp_path)
    plan = Plan((1, 1, 1, 1), (1, 1), steps=[step(10), step(20), step(10)])
    seen: list[tuple[str, int, int]] = []
    first = compile_objects(plan, target, core, cache, lambda *what: seen.append(what))
    assert [item.was_cached for item in first] == [False, False]
    assert seen == [("kernels", 1, 2), ("kernels", 2, 2)]
    second = compile_objects(plan, target, core, cache)
    assert [item.was_cached for item in second] == [True, True]
    assert [item.path for item in first] == [item.path for item in second]


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_lost_object_is_compiled_again(tmp_path: Path, damage: str) -> None:
    target = load_target("x86-64")
    core, cache = VectorMachine.of(target), Cache(tmp_path)
    plan = Plan((1, 1, 1, 1), (1, 1), steps=[step(10)])
    (first,) = compile_objects(plan, target, core, cache)
    data = first.path.read_bytes()
    if damage == "missing":
        first.path.unlink()
    else:
        first.path.write_bytes(b"")
    (second,) = compile_objects(plan, target, core, cache)
    assert not second.was_cached
    assert second.path.read_bytes() == data
