"""Estimates of whole programs: emulator and llvm-mca where they are installed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.target_spec import EmulatorSpec, load_target
from ofa_compile.measurement.cycle_model import find_mca
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.network_cycles import CycleEstimator, count_inference

PROGRAM = r"""
#include <stdlib.h>
float values[4096];
__attribute__((noinline)) void work(float factor) {
    for (int i = 0; i < 4096; i++) values[i] = values[i] * factor + 1.0f;
}
/* Ignores all but its last argument, as a bundle's executable is called. */
int main(int argc, char **argv) {
    for (int n = atoi(argv[argc - 1]); n > 0; n--) work(0.5f);
    return values[7] < 0.0f;
}
"""
needs_tools = pytest.mark.skipif(
    find_mca() is None or shutil.which("qemu-x86_64") is None or shutil.which("gcc") is None,
    reason="llvm-mca, qemu-x86_64 or gcc is not installed",
)


def build(folder: Path, *flags: str) -> Path:
    (folder / "program.c").write_text(PROGRAM, encoding="utf-8")
    path = folder / "program"
    words = ["gcc", "-O2", "-static", "-no-pie", *flags, "-o", str(path), "program.c"]
    subprocess.run(words, cwd=folder, check=True)
    return path


@needs_tools
def test_start_and_end_of_a_program_cancel(tmp_path: Path) -> None:
    program = build(tmp_path, "-fno-tree-vectorize")
    counts = count_inference(["qemu-x86_64", "-cpu", "max"], [str(program)])
    # Seven instructions for each value (GCC 12), and nothing of the C library.
    assert 4 * 4096 <= counts.total <= 8 * 4096
    assert counts.total == sum(counts.by_address.values())


@needs_tools
def test_vectors_take_fewer_cycles(tmp_path: Path) -> None:
    estimator = CycleEstimator(load_target("x86-64"), core="haswell")
    assert estimator.method["left_out"].startswith("caches, memory")
    assert "-mcpu=haswell" in estimator.method["estimated_by"]
    found = {}
    for name, flag in (("scalar", "-fno-tree-vectorize"), ("vector", "-O3")):
        folder = tmp_path / name
        folder.mkdir()
        found[name] = estimator.estimate(build(folder, flag), folder / "none")
    assert found["vector"].cycles < 0.5 * found["scalar"].cycles
    scalar = found["scalar"]
    assert scalar.ms == pytest.approx(1e3 * scalar.cycles / 3e9)
    assert 1e3 < scalar.cycles < 10 * 4096
    assert scalar.instructions_per_cycle == pytest.approx(
        scalar.instructions / scalar.cycles, rel=0.05
    )


def test_targets_without_a_model_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    target = load_target("x86-64")
    with pytest.raises(DeviceUnavailableError, match="nothing estimates cycles of 'x86-64'"):
        CycleEstimator(dataclasses.replace(target, emulator=None))
    absent = EmulatorSpec(command=("qemu-nowhere",))
    with pytest.raises(MissingDependencyError, match="qemu-nowhere, which is not"):
        CycleEstimator(dataclasses.replace(target, emulator=absent))


@needs_tools
@pytest.mark.slow
@pytest.mark.arm64
def test_the_command_keeps_estimates_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("no arm64 compiler or emulator")
    words = ["measure", "--estimate", "--target", "arm64", "--precision", "int8", "--count", "2"]
    words += ["--json", "--quiet"]
    assert run_app([*words, "--workspace", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["num_estimated"], report["core"]) == (
        "estimate", 2, "cortex-a53"
    )  # fmt: skip
    assert report["limits"].startswith("estimates know no caches")
    assert not (tmp_path / "latency.jsonl").exists()
    records = LatencyDataset(tmp_path / "latency-estimates.jsonl").records(kind="estimate")
    assert len(records) == 2
    for record in records:
        assert (record.target, record.precision) == ("arm64-int8", "int8")
        assert record.machine["left_out"].startswith("caches, memory")
        assert record.median_ms == pytest.approx(1e3 * record.machine["cycles"] / 1.4e9)
    assert run_app([*words, "--workspace", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["num_skipped"] == 2
