from __future__ import annotations

import dataclasses

import pytest

from ofa_compile.errors import TargetSpecError, UserInputError
from ofa_compile.hardware import host
from ofa_compile.hardware.precision import byte_products, precisions_of, target_in
from ofa_compile.hardware.target_spec import load_target


def test_fp32_changes_nothing() -> None:
    target = load_target("x86-64")
    assert target_in(target, "fp32") is target


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(
        UserInputError, match="precision 'int4'; it is one of fp32, tf32, fp16, int8"
    ):
        target_in(load_target("x86-64"), "int4")


@pytest.mark.parametrize(
    ("name", "products"),
    [("cortex-a76", "sdot"), ("cortex-a72", "smull"), ("x86-64", "pmadd"), ("riscv64", "none")],
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
def test_x86_without_dot_products_multiplies_int16(name: str) -> None:
    target = load_target(name)
    changed = target_in(target, "int8")
    assert byte_products(changed) == "pmadd"
    assert changed.tvm_target == target.tvm_target
    core = dataclasses.replace(target.core, vector_bits=128)
    with pytest.raises(TargetSpecError, match="only for AVX2 and aarch64"):
        target_in(dataclasses.replace(target, core=core), "int8")


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
    assert byte_products(target_in(target, "int8")) == "pmadd"


def test_fp16_is_another_target_on_the_same_boards() -> None:
    target = load_target("cortex-a76")
    changed = target_in(target, "fp16")
    assert (changed.name, changed.precision) == ("cortex-a76-fp16", "fp16")
    assert changed.fingerprint not in {target.fingerprint, target_in(target, "int8").fingerprint}
    assert changed.runner.key == "cortex-a76"


def test_fp16_needs_a_core_with_arithmetic_on_halves() -> None:
    with pytest.raises(TargetSpecError, match=r"cortex-a72 cannot .*mattr lacks '\+fullfp16'"):
        target_in(load_target("cortex-a72"), "fp16")
    core = dataclasses.replace(load_target("cortex-a72").core, requires=("asimd",))
    own = dataclasses.replace(
        load_target("cortex-a72"),
        tvm_target={**load_target("cortex-a76").tvm_target},
        core=core,
    )
    assert target_in(own, "fp16").core.requires == ("asimd", "asimdhp")  # boards are asked for it


@pytest.mark.parametrize("name", ["x86-64-avx512", "armv7", "riscv64", "wasm32"])
def test_fp16_is_for_aarch64_and_gpus_only(name: str) -> None:
    with pytest.raises(TargetSpecError, match="there are fp16 kernels for aarch64 and GPUs only"):
        target_in(load_target(name), "fp16")


def test_precisions_of_targets() -> None:
    assert precisions_of(load_target("neoverse-v1")) == ("fp32", "fp16", "int8")
    assert precisions_of(load_target("cortex-a53")) == ("fp32", "int8")
    assert precisions_of(load_target("cuda")) == ("fp32", "tf32", "fp16")


def test_tf32_is_for_ampere_and_later() -> None:
    cuda = load_target("cuda")
    changed = target_in(cuda, "tf32")
    assert (changed.name, changed.precision) == ("cuda-tf32", "tf32")
    newest = dataclasses.replace(cuda.toolchain, gpu_architectures=("sm_75", "sm_90a"))
    special = target_in(dataclasses.replace(cuda, toolchain=newest), "tf32")
    assert special.toolchain.gpu_architectures == ("sm_90a",)
    assert changed.toolchain.gpu_architectures == ("sm_80", "sm_86", "sm_89", "sm_90")
    assert changed.fingerprint != cuda.fingerprint
    toolchain = dataclasses.replace(cuda.toolchain, gpu_architectures=("sm_75",))
    with pytest.raises(TargetSpecError, match=r"cannot compute in tf32: .*\(sm_75\) none is sm_80"):
        target_in(dataclasses.replace(cuda, toolchain=toolchain), "tf32")
    for name in ("vulkan", "host"):
        with pytest.raises(TargetSpecError, match="only NVIDIA's GPUs can, from Ampere on"):
            target_in(load_target(name), "tf32")
