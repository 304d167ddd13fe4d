"""What is put before a target's executables, and what is said where that is not there."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.emulator import find_emulator, resolve, unset_variables
from ofa_compile.hardware.target_spec import EmulatorSpec, TargetSpec, load_target
from ofa_compile.hardware.toolchain import find_linker


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an empty emulator, and nothing else, on the PATH."""
    path = tmp_path / "qemu-board"
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def test_emulator(board: TargetSpec, qemu: Path) -> None:
    command = EmulatorSpec(command=("qemu-board", "-cpu", "max"))
    emulated = dataclasses.replace(board, emulator=command)
    assert find_emulator(emulated) == [str(qemu), "-cpu", "max"]
    assert find_emulator(dataclasses.replace(board, emulator=None)) is None
    assert find_emulator(load_target("host")) is None
    qemu.unlink()
    with pytest.raises(MissingDependencyError, match="only in qemu-board, which is not installed"):
        find_emulator(emulated)


def test_missing_qemu_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = load_target("arm64")
    if target.is_native:
        pytest.skip("arm64 is native here")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError) as caught:
        find_emulator(target)
    assert caught.value.hint == "sudo apt-get install qemu-user"


def test_a_variable_names_what_the_emulator_needs(
    qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("qemu-board", "-L", "$ANDROID_SYSTEM", "-E", "A=${ANDROID_SYSTEM}/b")
    for empty in (False, True):
        monkeypatch.delenv("ANDROID_SYSTEM", raising=False)
        if empty:
            monkeypatch.setenv("ANDROID_SYSTEM", "")
        assert unset_variables(command) == ["ANDROID_SYSTEM"]
        with pytest.raises(MissingDependencyError, match="only in qemu-board") as caught:
            resolve(command, "phone")
        assert "ANDROID_SYSTEM is" in str(caught.value)
        assert "adb pull" in str(caught.value.hint)
    monkeypatch.setenv("ANDROID_SYSTEM", "/a phone")
    assert unset_variables(command) == []
    assert resolve(command, "phone") == [str(qemu), "-L", "/a phone", "-E", "A=/a phone/b"]


@pytest.mark.arm64
def test_a_static_program_runs_in_the_emulator(tmp_path: Path) -> None:
    target = load_target("arm64")
    source, program = tmp_path / "a.c", tmp_path / "a"
    source.write_text("int main(void) { return 7; }\n", encoding="utf-8")
    command = [*find_linker(target).static_command, str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([*(find_emulator(target) or []), str(program)], check=False)
    assert done.returncode == 7
