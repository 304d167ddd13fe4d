"""The GPU benchmark as far as it goes without a GPU: built, packed, unpacked, verified, timed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from gpu_peer_files import add_tvm, add_tvm_runtime, tvm_library
from gpu_prebuilt import coarse_subnet, onnx_file, quick_subnets

from ofa_compile.export.onnx_export import export_onnx
from ofa_compile.hardware.target_spec import TargetSpec

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_gpu.py"
# How fat binaries of CUDA begin.
FAT_BINARY = bytes.fromhex("50ed55ba")


@pytest.mark.slow
def test_what_is_built_here_runs_there(software: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(software)}
    environment["OFA_COMPILE_CACHE"] = str(tmp_path / "cache")

    def call(*arguments: str) -> str:
        command = [sys.executable, str(SCRIPT), *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, timeout=600, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = call("--prebuild", "built", "--quick", "--batches", "1", "2")
    archive = tmp_path / "built.tar.xz"
    assert f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB" in said
    assert "no files of tvm for all networks: no libcudart.so" in said  # of the test's toolkit
    assert archive.stat().st_size < 4 * 2**20
    with tarfile.open(archive) as packed:
        names = set(packed.getnames())
    assert {f"cifar-smallest/batch-{n}.onnx" for n in (1, 2)} < names
    # The test's driver takes too long for what measures a GPU's limits: that costs the limits.
    run = ("--run", archive.name, "--rounds", "1", "--output", "gpu.json", "--peer-seconds", "9")
    call(*run, "--runtimes", "onnxruntime")
    document = json.loads((tmp_path / "gpu.json").read_text())
    first, second = document["networks"]
    assert (first["batch"], second["batch"]) == (1, 2)
    ours = first["runtimes"]["ours"]
    assert ours["largest_error"] < 1e-4
    assert ours["device_ms"] == 1  # the driver of the test says so
    assert ours["end_to_end_ms"] > 0
    assert len(first["our_steps"]) > 20
    assert {"kind", "ms", "share_of_flops"} == set(first["our_steps"][0])
    assert ours["precision"] == "fp32"
    assert ours["gb_per_s"] > 0
    assert "no answer within 9 s" in document["limits"]["by"]["ours"]["error"]
    assert (ours["share_of_flops"], ours["share_of_bandwidth"]) == (None, None)
    assert "onnxruntime" in document["absent"]
    assert first["timing_s"] > 0
    assert document["provenance"]["command"]
    # A second run finds nothing left to do, in no time.
    call(*run, "--resume", "--minutes", "0")
    again = json.loads((tmp_path / "gpu.json").read_text())
    assert again["networks"] == document["networks"]
    assert again["checks"] == document["checks"]


@pytest.mark.slow
@pytest.mark.usefixtures("real_nvcc")
def test_stock_tvm_is_compiled_to_machine_code_without_a_driver(
    cuda: TargetSpec, tmp_path: Path
) -> None:
    place = tmp_path / "small"
    place.mkdir()
    (architecture,) = quick_subnets().values()
    subnet = coarse_subnet(architecture, place / "weights.npz")
    export_onnx(subnet, onnx_file(place, 1), resolution=architecture.resolution)
    toolchain = dataclasses.replace(cuda.toolchain, gpu_architectures=("sm_80",))
    add_tvm(place, 1, dataclasses.replace(cuda, toolchain=toolchain))
    library = tvm_library(place, 1)
    code = library.read_bytes()
    assert FAT_BINARY in code
    assert b"__global__" not in code  # what TVM leaves to a compiler of the other machine
    add_tvm_runtime(tmp_path / "tvm", "cuda")
    names = {path.name.split(".so")[0] for path in (tmp_path / "tvm").iterdir()}
    assert names == {"libtvm_ffi", "libtvm_runtime", "libtvm_runtime_cuda", "libcudart"}
