from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.bundle.executor import Executable, emulator_command, is_native
from ofa_compile.bundle.manifest import describe_target
from ofa_compile.errors import DeviceError, DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import load_target

X = np.zeros((2, 3, 8, 8), dtype=np.float32)


def script(tmp_path: Path, body: str) -> Path:
    path = tmp_path / "subnet"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def target(**changes: Any) -> dict[str, Any]:
    return {**describe_target(load_target("host")), **changes}


def test_host_is_native() -> None:
    assert is_native(target())
    assert emulator_command(target()) == []
    assert not is_native(target(requires=["a flag no processor has"]))
    assert not is_native(target(triple=f"{host_arch()}-linux-android24"))


def test_foreign_target_without_emulator() -> None:
    foreign = target(name="toaster", arch="riscv64", emulator=None)
    with pytest.raises(DeviceUnavailableError, match=r"is for toaster \(riscv64"):
        emulator_command(foreign)


def test_missing_emulator_names_it() -> None:
    foreign = target(name="toaster", arch="riscv64", emulator=["qemu-toaster", "-x"])
    with pytest.raises(MissingDependencyError, match="qemu-toaster, which is not") as caught:
        emulator_command(foreign)
    assert "qemu-toaster" in str(caught.value.hint)


def test_emulator_is_found_on_the_path() -> None:
    found = emulator_command(target(arch="riscv64", emulator=["sh", "-x"]))
    assert found[0].endswith("/sh")
    assert found[1:] == ["-x"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo sorry >&2; exit 2", r"subnet failed \(2\): sorry"),
        ("exit 1", "it printed nothing"),
        ("kill -SEGV $$", r"subnet failed \(signal 11\)"),
        ("printf 1234 > $4", r"wrote 4 bytes of logits\.f32, not 2 x 5"),
    ],
)
def test_failures_are_clear_errors(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Executable(script(tmp_path, body), 5).run(X)


def test_hanging_program_is_ended(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="did not finish"):
        Executable(script(tmp_path, "exec sleep 20"), 5, input_limit_s=0.1).run(X)


def test_program_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot start subnet"):
        Executable(tmp_path / "subnet", 5).run(X)
    path = script(tmp_path, "")
    path.chmod(0o644)
    with pytest.raises(DeviceError, match="Permission denied"):
        Executable(path, 5).run(X)


def test_logits_that_are_not_finite_come_through(tmp_path: Path) -> None:
    program = f"{sys.executable} -c 'import sys,array; " + (
        'array.array("f", [float("nan")] * 10).tofile(open(sys.argv[1], "wb"))\' $4; exit 3'
    )
    assert np.isnan(Executable(script(tmp_path, program), 5).run(X)).all()


def test_no_inputs_start_nothing(tmp_path: Path) -> None:
    assert Executable(tmp_path / "absent", 5).run(X[:0]).shape == (0, 5)
