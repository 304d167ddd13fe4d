"""Every target that ships: its file loads, TVM takes it, and its facts agree with each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_compile.hardware.target_spec import list_targets, load_target


def test_list_equals_the_folder(repository: Path) -> None:
    files = {path.stem for path in (repository / "targets").glob("*.toml")}
    assert set(list_targets()) == files


@pytest.mark.parametrize("name", list_targets())
def test_tvm_accepts_it(name: str) -> None:
    from ofa_compile.compiler.tvm_api import Target

    spec = load_target(name)
    tvm_target = Target(spec.tvm_target)
    assert tvm_target.kind.name == spec.tvm_target["kind"]
    if not spec.is_gpu:
        assert str(tvm_target.attrs["mcpu"]) == spec.tvm_target["mcpu"]


@pytest.mark.parametrize("name", list_targets())
def test_facts_agree(name: str) -> None:
    spec = load_target(name)
    assert spec.toolchain.linkers
    assert spec.description
    if spec.is_gpu:  # facts of a GPU, which has no such rule
        return
    registers = {
        32: {32},
        128: {32} if spec.arch in ("aarch64", "riscv64") else {16},
        256: {16},
        512: {32},
    }
    assert spec.core.vector_registers in registers[spec.core.vector_bits]
    assert spec.tvm_target["num-cores"] == spec.core.cores


def test_baseline_arm64_demands_nothing_that_a_cortex_a53_lacks() -> None:
    arm64, a53 = load_target("arm64"), load_target("cortex-a53")
    assert set(arm64.core.requires) <= set(a53.core.requires)
    assert arm64.tvm_target["mcpu"] == "generic"
    assert arm64.tvm_target["mattr"] == ["+neon"]
    assert arm64.emulator is not None
    assert "cortex-a53" in arm64.emulator.command


def test_fingerprints_differ() -> None:
    prints = [load_target(name).fingerprint for name in list_targets()]
    assert len(set(prints)) == len(prints)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_targets())
def test_check_finds_nothing_wrong(name: str) -> None:
    """`targets check` passes for what ships, as far as this machine has the tools."""
    from ofa_compile.diagnosis import check_target

    checks = check_target(name)
    assert [check.name for check in checks[:2]] == ["target file", "TVM target"]
    lacking = [check for check in checks if not check.is_ok]
    hints = " ".join(check.hint or "" for check in lacking)
    if lacking and ("install" in hints or "ANDROID_NDK" in hints):
        pytest.skip(f"{lacking[0].name}: {lacking[0].detail}; {lacking[0].hint}")
    assert not lacking, [check.to_dict() for check in lacking]
    assert checks[-1].name in {"test program", "device", "GPU"}


@pytest.mark.parametrize("name", list_targets())
def test_facts_have_sources(name: str, repository: Path) -> None:
    """What a file says of a core is accounted for in a comment at its head."""
    head = (
        (repository / f"targets/{name}.toml").read_text(encoding="utf-8").split("[tvm_target]")[0]
    )
    assert "\n# " in head or load_target(name).detected
