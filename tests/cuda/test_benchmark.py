"""The GPU benchmark as far as it goes without a GPU: built, packed, unpacked, verified, timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"


@pytest.mark.slow
def test_what_is_built_here_runs_there(software: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(software)}
    environment["OFA_COMPILE_CACHE"] = str(tmp_path / "cache")

    def call(*arguments: str) -> None:
        command = [sys.executable, str(SCRIPT), *arguments]
        subprocess.run(command, check=True, env=environment, cwd=tmp_path, timeout=600)

    call("--prebuild", "built", "--quick", "--batches", "1", "2")
    assert (tmp_path / "built.tar.xz").stat().st_size < 4 * 2**20
    run = ("--run", "built.tar.xz", "--runtimes", "ours", "--rounds", "1", "--output", "gpu.json")
    call(*run)
    document = json.loads((tmp_path / "gpu.json").read_text())
    first, second = document["networks"]
    assert (first["batch"], second["batch"]) == (1, 2)
    ours = first["runtimes"]["ours"]
    assert ours["largest_error"] < 1e-4
    assert ours["device_ms"] == 1  # the driver of the test says so
    assert ours["end_to_end_ms"] > 0
    assert len(first["ours_step_ms"]) == first["num_kernels"]
    assert ours["precision"] == "fp32"
    assert ours["gb_per_s"] > 0
    assert (ours["share_of_flops"], ours["share_of_bandwidth"]) == (None, None)  # no limits known
    assert first["timing_s"] > 0
    assert document["provenance"]["command"]
    # A second run finds nothing left to do.
    call(*run, "--resume", "--minutes", "0")
    again = json.loads((tmp_path / "gpu.json").read_text())
    assert again["networks"] == document["networks"]
