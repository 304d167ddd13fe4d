"""The probe on this machine, and what is said when it cannot be built or fails."""

from __future__ import annotations

import dataclasses
import platform
import stat
from pathlib import Path

import pytest

from ofa_compile.errors import BuildError, DeviceError
from ofa_compile.hardware.target_spec import EmulatorSpec, ToolchainSpec, load_target
from ofa_compile.measurement.probe import probe

HOST = load_target("host")


def test_this_machine() -> None:
    result = probe(HOST)
    assert result.where == "here"
    facts = result.facts
    assert facts is not None
    values = facts.core_values(HOST.core)
    assert values["cores"] == HOST.core.cores
    assert facts.missing(HOST.core) == ()
    assert 1e8 < values["frequency_hz"] < 1e10
    # Vectors, multiply-adds, and no more of them than any core starts.
    assert 0.2 < values["fma_per_cycle"] <= 8
    assert 0.1 < values["memory_bandwidth_gb_per_s"] < 1000


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    spec = ToolchainSpec(linkers=("gcc",), flags=("-no-such-flag",))
    with pytest.raises(BuildError, match=r"gcc fails with status 1: .*no-such-flag"):
        probe(dataclasses.replace(HOST, toolchain=spec))


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text("#!/bin/sh\necho unknown instruction >&2\nexit 5\n", encoding="utf-8")
    emulator.chmod(emulator.stat().st_mode | stat.S_IXUSR)
    core = dataclasses.replace(HOST.core, requires=("no_such_flag",))
    spec = EmulatorSpec(command=(str(emulator), "-x"))
    foreign = dataclasses.replace(HOST, core=core, emulator=spec)
    assert not foreign.is_native
    with pytest.raises(DeviceError, match="fails in emulator -x with status 5: unknown inst") as e:
        probe(foreign)
    assert "vector_bits" in str(e.value.hint)
    emulator.write_text('#!/bin/sh\nshift\nexec "$@"\n', encoding="utf-8")
    if platform.system() == "Linux":
        assert probe(foreign).facts is None  # what an emulator says is not looked at
