from __future__ import annotations

import dataclasses

import pytest

from ofa_compile.errors import TargetSpecError, UserInputError
from ofa_compile.hardware import host
from ofa_compile.hardware.precision import byte_products, target_in
from ofa_compile.hardware.target_spec import load_target


def test_fp32_changes_nothing() -> None:
    target = load_target("x86-64")
    assert target_in(target, "fp32") is target


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserInputError, match="unknown precision 'int4'; it is one of fp32, int8"):
        target_in(load_target("x86-64"), "int4")


@pytest.mark.parametrize(
    ("name", "products"), [("cortex-a76", "sdot"), ("cortex-a72", "smull"), ("x86-64", "none")]
)
def test_byte_products_of_cores(name: str, products: str) -> None:
    assert byte_products(load_target(name)) == products


def test_a_target_in_int8_is_another_target_on_the_same_boards() -> None:
    target = load_target("cortex-a76")
    changed = target_in(target, "int8")
    assert (changed.name, changed.precision) == ("cortex-a76-int8", "int8")
    assert changed.fingerprint != target.fingerprint
    assert changed.runner.key == "cortex-a76"
    assert changed.tvm_target == target.tvm_target
    assert target_in(changed, "int8") is changed


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx512"])
def test_x86_without_dot_products_is_refused(name: str) -> None:
    with pytest.raises(TargetSpecError, match="needs dot products of bytes"):
        target_in(load_target(name), "int8")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("armv7", "armv7"),
        ("riscv64", "riscv64"),
        ("vulkan", "a vulkan GPU"),
        ("cuda", "a cuda GPU"),
    ],
)
def test_families_without_kernels_are_refused(name: str, what: str) -> None:
    with pytest.raises(TargetSpecError, match=rf"no int8 kernels for {name} \({what}\)"):
        target_in(load_target(name), "int8")


def test_a_detected_core_is_asked_for_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    target = dataclasses.replace(load_target("x86-64-avx512"), detected=True)
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset({"avx512_vnni", "avx_vnni"}))
    changed = target_in(target, "int8")
    assert changed.tvm_target["mattr"] == ["+avx512vnni"]
    assert "avx512_vnni" in changed.core.requires
    assert byte_products(changed) == "vnni"
    monkeypatch.setattr(host, "cpu_flags", lambda: frozenset({"avx512f"}))
    with pytest.raises(TargetSpecError, match="this processor has neither"):
        target_in(target, "int8")
