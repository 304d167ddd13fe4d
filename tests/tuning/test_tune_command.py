"""`ofa-compile tune` as a user has it: real kernels, real processes, and signals at bad moments."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import MissingDependencyError, TargetSpecError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.space import search_space
from ofa_compile.tuning.choose import database_path, tuned_configs
from ofa_compile.tuning.database import TuningDatabase

HOST = load_target("host")
ARGUMENTS = ("tune", "--target", "host", "--resolution", "24", "--workspace")


@pytest.fixture(autouse=True)
def _needs_a_compiler() -> None:
    try:
        find_linker(HOST)
    except MissingDependencyError as err:
        pytest.skip(str(err))


def tune(workspace: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert run_app([*ARGUMENTS, str(workspace), "--json", "--quiet", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_tunes_resumes_and_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tune(tmp_path, capsys, "--dry-run")
    assert plan["num_trials"] == 0
    assert plan["coverage"]["num_tuned"] == 0
    assert plan["coverage"]["num_trials"] > plan["coverage"]["num_workloads"]
    assert plan["coverage"]["forecast_s"] > 0
    smallest = tmp_path / "smallest.json"
    smallest.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json(), encoding="utf-8")
    arguments = ["tune", "--workspace", str(tmp_path), "--json", "--quiet", "--dry-run"]
    assert run_app([*arguments, "--architecture", str(smallest)]) == 0
    one = json.loads(capsys.readouterr().out)["coverage"]
    assert 0 < one["num_workloads"] < plan["coverage"]["num_workloads"]
    output = tmp_path / "best.json"
    first = tune(tmp_path, capsys, "--max-trials", "6", "--output", str(output))
    assert (first["num_trials"], first["trials"]["ok"]) == (6, 6)
    left = first["coverage"]
    assert left["num_trials"] < plan["coverage"]["num_trials"]
    assert 0 <= left["time_share"] < 1  # a workload counts when all its configurations are known
    assert first["speedup"] >= 0.9
    assert json.loads(output.read_text(encoding="utf-8"))["measured_on"]["threads"] == 1
    second = tune(tmp_path, capsys, "--max-trials", "2")
    assert second["coverage_before"] == first["coverage"]
    records = list(TuningDatabase(database_path(tmp_path, HOST)))
    assert len(records) == 8
    assert {r.workload.key for r in records} <= set(tuned_configs(HOST, tmp_path))
    assert run_app([*ARGUMENTS, str(tmp_path), "--dry-run", "--quiet"]) == 0
    assert "of a random subnet's expected time" in capsys.readouterr().out


def test_int8_is_tuned_apart_from_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        int8 = target_in(HOST, "int8")
    except TargetSpecError as err:
        pytest.skip(str(err))
    plan = tune(tmp_path, capsys, "--precision", "int8", "--dry-run")
    assert 0 < plan["coverage"]["num_fixed"] < plan["coverage"]["num_workloads"]
    report = tune(tmp_path, capsys, "--precision", "int8", "--max-trials", "12")
    assert (report["precision"], report["trials"]["ok"]) == ("int8", 12)
    path = database_path(tmp_path, int8)
    assert report["database"] == str(path) != str(database_path(tmp_path, HOST))
    kinds = {record.workload.kind for record in TuningDatabase(path)}
    assert kinds & {"pointwise_int8", "depthwise_int8"}
    assert not database_path(tmp_path, HOST).exists()
    assert tuned_configs(int8, tmp_path).keys() > tuned_configs(HOST, tmp_path).keys()
    assert run_app([*ARGUMENTS, str(tmp_path), "--precision", "int8", "--dry-run", "--quiet"]) == 0
    assert "have one configuration in int8, and nothing to choose" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--target", "cortex-a53", "--precision", "fp16"), 2, "cortex-a53 cannot compute in fp16"),
        (("--target", "riscv64", "--precision", "int8"), 2, "no int8 kernels for riscv64"),
        (("--target", "riscv64"), 4, "cannot run code for 'riscv64', and nothing estimates"),
        (("--resolution", "33"), 2, "resolution 33 is outside ofa_mbv3_cifar"),
        (("--space", "nonsense"), 2, "unknown search space"),
        (("--architecture", "no.json"), 2, "no.json"),
        (("--architecture", "no.json", "--resolution", "32"), 2, "has its own resolution"),
    ],
)
def test_what_cannot_be_tuned_is_an_error(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments == ("--target", "riscv64") and load_target("riscv64").is_native:
        pytest.skip("this machine is a riscv64")
    assert run_app(["tune", "--workspace", str(tmp_path), *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_corrupted_database_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = database_path(tmp_path, HOST)
    path.parent.mkdir(parents=True)
    path.write_text("{}\n", encoding="utf-8")
    assert run_app([*ARGUMENTS, str(tmp_path)]) == 2
    assert f"{path}, line 1" in capsys.readouterr().err


def started(workspace: Path) -> subprocess.Popen[bytes]:
    """Start a tuner and wait for its first record."""
    command = [sys.executable, "-m", "ofa_compile", *ARGUMENTS, str(workspace), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = database_path(workspace, HOST)
    deadline = time.monotonic() + 240
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), "the tuner wrote nothing"
    return process


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children")
    tasks = Path(f"/proc/{pid}/task").iterdir() if text.exists() else ()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux' /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_tuner_leaves_a_whole_database_and_no_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    process = started(tmp_path)
    children = children_of(process.pid)
    assert len(children) >= 2
    start = time.monotonic()
    process.send_signal(number)
    code = process.wait(60)
    assert time.monotonic() - start < 2.0
    assert code == (130 if number is signal.SIGINT else -signal.SIGKILL)
    wait_until_gone(children)
    assert list(TuningDatabase(database_path(tmp_path, HOST)))


@pytest.mark.slow
def test_two_tuners_may_work_on_one_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = started(tmp_path)
    try:
        report = tune(tmp_path, capsys, "--max-trials", "10")
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert report["num_trials"] == 10
    records = list(TuningDatabase(database_path(tmp_path, HOST)))
    assert len(records) > 10
