"""Tuning for a core that is not at hand: checked in an emulator, judged by a model of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unfortunate_kernels import run_kernels, write_kernels

from ofa_compile.cli.app import run_app
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.cycle_model import Disassembly, estimate_cycles, find_mca
from ofa_compile.space import search_space
from ofa_compile.tuning import estimate_runner
from ofa_compile.tuning.choose import database_path
from ofa_compile.tuning.database import TuningDatabase
from ofa_compile.tuning.estimate_runner import EstimateRunner

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(find_mca() is None, reason="llvm-mca is not installed"),
]
ARM64 = load_target("arm64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels")
    write_kernels(path, ARM64)
    return path


@pytest.fixture
def runner() -> Iterator[EstimateRunner]:
    made = EstimateRunner(ARM64, timeout_s=3.0)
    yield made
    made.close()


def test_failures_are_told_apart_and_the_rest_is_estimated(
    runner: EstimateRunner, folder: Path
) -> None:
    symbols = ("right", "off_by_a_little", "overruns", "crashes", "hangs", "slow")
    results = run_kernels(runner, folder, *symbols)
    statuses = [result.status for result in results]
    assert statuses == ["ok", "wrong", "wrong", "crash", "timeout", "ok"]
    right, slow = results[0].time_us, results[-1].time_us
    assert right is not None
    assert slow is not None
    # 64 steps, and some; 100,000 steps through memory. A core's clock is known.
    cycles = 1e-6 * ARM64.core.frequency_hz
    assert 64 < right * cycles < 2000
    assert 100_000 < slow * cycles < 3_000_000
    assert runner.kind == "estimate"
    again = run_kernels(runner, folder, "right")[0].time_us
    assert again == right  # counts repeat exactly


def test_other_cores_have_other_cycles(folder: Path, tmp_path: Path) -> None:
    code = Disassembly(folder / "kernels.so")
    start = min(a for a in range(0x10000) if code.function_at(a) == "right")
    counts = dict.fromkeys(range(start, start + 16, 4), 100)
    assert set(code.by_function(counts)) == {"right"}
    mca = find_mca()
    assert mca is not None
    works = [code.blocks(counts)] * 2
    (one, two), (other, _) = (
        estimate_cycles(mca, core, works) for core in ("cortex-a53", "neoverse-n1")
    )
    assert one == two
    assert one != other


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_runner, "find_mca", lambda: None)
    with pytest.raises(MissingDependencyError, match="nothing estimates cycles of 'arm64'"):
        EstimateRunner(ARM64)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_command_estimates_in_every_precision_and_says_so(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subnet = tmp_path / "smallest.json"
    subnet.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json(), encoding="utf-8")
    command = ["tune", "--target", "cortex-a76", "--architecture", str(subnet)]
    command += ["--precision", precision, "--max-trials", "4", "--workspace", str(tmp_path)]
    assert run_app([*command, "--quiet"]) == 0
    target = load_target("cortex-a76")
    path = database_path(tmp_path, target_in(target, precision))
    assert [(r.kind, r.status) for r in TuningDatabase(path)] == [("estimate", "ok")] * 4
    assert not database_path(tmp_path, target).exists()
    text = capsys.readouterr().out
    assert str(path) in text
    assert "(estimate)" in text
    assert "left out   caches, memory" in text
