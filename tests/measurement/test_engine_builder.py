"""Measuring inside an engine: wasm32 in Node.js, from the command to the data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ofa_compile.bundle.executor import Executable
from ofa_compile.cli.app import run_app
from ofa_compile.errors import DeviceError
from ofa_compile.measurement.dataset import LatencyDataset


@pytest.mark.slow
@pytest.mark.node
def test_wasm_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lacking = [name for name in ("clang", "wasm-ld") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed (scripts/system-packages.sh tests)")
    arguments = ["measure", "--target", "wasm32", "--count", "2", "--resolution", "24"]
    assert run_app([*arguments, "--workspace", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_measured"] == 2
    records = LatencyDataset(tmp_path / "latency.jsonl").records(kind="measurement")
    times = [record.median_ms for record in records if record.architecture.resolution == 24]
    assert len(times) >= 2
    assert all(time is not None and 0.01 < time < 1000 for time in times)


@pytest.mark.parametrize(
    "option", [("--threads", "2"), ("--cache-state", "cold"), ("--build-only",)]
)
def test_what_an_engine_cannot_do_is_refused(
    option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["measure", "--target", "wasm32", "--workspace", str(tmp_path), *option]
    assert run_app(arguments) == 2
    error = capsys.readouterr().err
    assert f"{option[0]} is for targets that this machine runs itself" in error
    assert "measured inside an engine" in error


def test_tuning_in_an_engine_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_app(["tune", "--target", "wasm32", "--workspace", str(tmp_path)]) == 4
    assert "cannot run code for 'wasm32'" in capsys.readouterr().err


def test_an_executable_that_writes_too_few_times(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nprintf 12345678 > "$6"\n', encoding="utf-8")
    program.chmod(0o755)
    assert Executable(program, 3).time(repeats=1).shape == (1,)
    with pytest.raises(DeviceError, match=r"program wrote 8 bytes of times\.f64, not 2 values"):
        Executable(program, 3).time(repeats=2)
