from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ofa_compile.errors import (
    DeviceUnavailableError,
    TargetNotFoundError,
    TargetSpecError,
    UserInputError,
)
from ofa_compile.hardware.device_facts import DeviceFacts
from ofa_compile.hardware.target_spec import TargetSpec, list_targets, load_target
from ofa_compile.measurement import probe as probing
from ofa_compile.measurement.probe import ProbeResult
from ofa_compile.workflows.new_target import (
    NewTargetOptions,
    fill_in,
    new_target,
    probe_target,
)


def make(folder: Path, name: str = "board", **options: Any) -> TargetSpec:
    path = new_target(NewTargetOptions(name=name, output=folder / f"{name}.toml", **options))
    return load_target(path)


@pytest.mark.parametrize("base", [n for n in list_targets() if not load_target(n).is_gpu])
def test_a_copy_says_what_its_base_says(base: str, tmp_path: Path) -> None:
    made, original = make(tmp_path, base=base), load_target(base)
    assert made.tvm_target == original.tvm_target
    assert made.core.requires == original.core.requires
    assert made.core.frequency_hz == pytest.approx(original.core.frequency_hz)
    assert made.toolchain == original.toolchain
    assert made.emulator == original.emulator
    assert made.runner.kind == "estimate"
    assert not made.detected


def test_another_processor_brings_its_compiler_and_emulator(tmp_path: Path) -> None:
    made = make(
        tmp_path,
        triple="loongarch64-linux-gnu",
        cpu="la464",
        features=("+lsx",),
        settings=("core.frequency_hz=2.5e9", 'tvm_target.mabi="lp64d"', "description=Loongson"),
    )
    assert made.arch == "loongarch64"
    assert made.description == "Loongson"
    assert made.tvm_target["mattr"] == ["+lsx"]
    assert made.tvm_target["vector-width"] == 128
    assert made.core.requires == ()  # flags of arm64 mean nothing here
    assert made.core.frequency_hz == 2.5e9
    assert made.toolchain.linkers == ("loongarch64-linux-gnu-gcc", "gcc", "cc", "clang")
    assert made.emulator is not None
    assert made.emulator.command == ("qemu-loongarch64",)
    assert "l1_bytes = 32768  # data cache of one core; as arm64" in made_text(tmp_path)


def made_text(folder: Path) -> str:
    return (folder / "board.toml").read_text(encoding="utf-8")


def test_another_platform(tmp_path: Path) -> None:
    made = make(tmp_path, triple="wasm32-wasi", cpu="mvp", features=("+simd128",))
    assert made.toolchain.linkers == ("clang",)
    assert made.toolchain.flags == ("--target=wasm32-wasi",)
    assert made.core.cores == made.tvm_target["num-cores"] == 1
    android = make(tmp_path, "phone", triple="aarch64-linux-android", tracker="pc:9190", key="p")
    assert android.toolchain.linkers[0].endswith("/bin/aarch64-linux-android24-clang")
    assert android.emulator is None
    assert android.core.requires == ("asimd",)  # the same processor as the base
    assert (android.runner.kind, android.runner.key) == ("rpc", "p")


def test_what_is_given_has_the_last_word(tmp_path: Path) -> None:
    made = make(
        tmp_path,
        base="riscv64",
        compilers=("my-gcc",),
        compiler_flags=("-mtune=u74",),
        emulator=("qemu-riscv64", "-cpu", "rv64"),
        settings=("toolchain.link_flags=['-lx']", "tuning.max_trials_global=7"),
    )
    assert made.toolchain.linkers == ("my-gcc",)
    assert made.toolchain.flags == ("-mtune=u74",)
    assert made.toolchain.link_flags == ("-lx",)
    assert made.tuning.max_trials_global == 7
    assert made.emulator is not None
    assert made.emulator.command == ("qemu-riscv64", "-cpu", "rv64")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"triple": "riscv64-linux-gnu"}, TargetSpecError, "--cpu is needed"),
        ({"triple": "riscv64-none-elf", "cpu": "x"}, TargetSpecError, "names no platform"),
        ({"base": "arm46"}, TargetNotFoundError, "unknown target 'arm46'"),
        ({"base": "vulkan"}, TargetSpecError, "is a GPU"),
        ({"settings": ("core.vector_bits",)}, TargetSpecError, "wants TABLE.KEY=VALUE"),
        ({"settings": ("cores=4",)}, TargetSpecError, "no key of a target's file"),
        ({"settings": ("core.coers=4",)}, TargetSpecError, "unknown key 'core.coers'"),
        ({"settings": ("core.cores=0",)}, TargetSpecError, "allowed is 1 to 1024"),
        ({"tracker": "nowhere"}, TargetSpecError, "runner.tracker"),
    ],
)
def test_mistakes_leave_no_file(
    options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        make(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(UserInputError, match=r"board\.toml is there already"):
        make(tmp_path)
    with pytest.raises(TargetSpecError, match=r"NAME\.toml; got '\.\./x'"):
        new_target(NewTargetOptions(name="../x"))
    with pytest.raises(UserInputError, match="cannot write"):
        make(tmp_path / "absent")


FACTS = DeviceFacts(model="a board", cores=2, clock_hz=1.2e9, peak_flops=9.6e9, l1_bytes=65536)


def test_facts_are_filled_in(tmp_path: Path) -> None:
    make(tmp_path)
    written = fill_in(tmp_path / "board.toml", FACTS, "read on board pi")
    assert written["core.cores"] == written["tvm_target.num-cores"] == 2
    target = load_target(tmp_path / "board.toml")
    assert target.core.cores == target.tvm_target["num-cores"] == 2
    assert target.core.l1_bytes == 65536
    assert target.core.fma_per_cycle == 1.0
    assert target.core.l2_bytes == load_target("arm64").core.l2_bytes
    assert "read on board pi" in made_text(tmp_path)
    assert "cores = 2  # cores; read on board pi" in made_text(tmp_path)


def test_probing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    path = str(tmp_path / "board.toml")
    monkeypatch.setattr(probing, "probe", lambda target: ProbeResult(where="there", facts=FACTS))
    document = probe_target(path, write=False)
    assert "core.cores is 4, the device has 2" in document["differences"]
    assert document["written"] == {}
    assert probe_target(path, write=True)["written"]["core.cores"] == 2
    assert probe_target(path, write=False)["differences"] == []
    for name in ("arm64", "host"):
        with pytest.raises(TargetSpecError, match="no file of yours"):
            probe_target(name, write=True)
    monkeypatch.setattr(probing, "probe", lambda target: ProbeResult(where="in x", facts=None))
    with pytest.raises(DeviceUnavailableError, match="an emulator knows nothing"):
        probe_target(path, write=True)
