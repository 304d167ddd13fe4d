"""What somebody gets who compiles for CUDA where there is no GPU: NVIDIA's own compiler does it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fat_binary import find_fat_binaries, read_fat_binary

from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.cache import Cache
from ofa_compile.cli.app import run_app
from ofa_compile.compiler.cuda.nvcc import compile_cuda
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import search_space

pytestmark = pytest.mark.usefixtures("real_nvcc")
KERNEL = 'extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= 2; }\n'
ARCHITECTURES = ["sm_75", "sm_90"]


def holds(entries: Any) -> list[tuple[str, int]]:
    return sorted((entry.kind, entry.architecture) for entry in entries)


def wanted(architectures: Any) -> list[tuple[str, int]]:
    """Return what a fat binary for them should hold."""
    numbers = [int(re.sub(r"\D", "", name)) for name in architectures]
    return sorted([*(("machine code", n) for n in numbers), ("PTX", numbers[-1])])


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_a_kernel_has_code_for_every_architecture(cuda: TargetSpec, precision: str) -> None:
    architectures = target_in(cuda, precision).toolchain.gpu_architectures
    entries = read_fat_binary(compile_cuda(KERNEL, "twice", architectures))
    assert holds(entries) == wanted(architectures)
    # What the driver takes is the code itself.
    said = [e.machine_architecture for e in entries if e.kind == "machine code"]
    assert said == [e.architecture for e in entries if e.kind == "machine code"]


def test_ptx_serves_later_gpus() -> None:
    """Which that of an architecture with a letter would not."""
    entries = read_fat_binary(compile_cuda(KERNEL, "twice", ["sm_80", "sm_90a"]))
    assert holds(entries) == wanted(["sm_80", "sm_90"])
    (ptx,) = (entry for entry in entries if entry.kind == "PTX")
    alone = read_fat_binary(compile_cuda(KERNEL, "twice", ["sm_90"]))
    assert ptx.code in [entry.code for entry in alone]


@pytest.fixture(scope="module")
def target_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The target for two architectures alone, since nvcc takes its time for each."""
    repository = Path(__file__).parents[2]
    text = (repository / "targets" / "cuda.toml").read_text(encoding="utf-8")
    path = tmp_path_factory.mktemp("cuda-target") / "two.toml"
    path.write_text(
        re.sub(r"(?m)^gpu_architectures = .*$", f"gpu_architectures = {ARCHITECTURES}", text),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def bundle(
    target_file: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The smallest subnet, compiled by the command."""
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))
    subnet, output = tmp_path / "subnet.json", tmp_path / "bundle"
    subnet.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json(), encoding="utf-8")
    arguments = ["--architecture", str(subnet), "--output", str(output), "--no-verify", "--quiet"]
    assert run_app(["compile", "--target", str(target_file), *arguments]) == 0
    return output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_a_bundle_needs_a_driver_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    files = {path.name for path in bundle.iterdir()}
    assert files >= {"manifest.json", "subnet", "libsubnet.so", "subnet.h", "subnet.onnx"}
    manifest = load_bundle(bundle).manifest
    assert manifest.verification["verified"] is False
    assert json.loads((bundle / "manifest.json").read_text())["target"]["name"] == "two"
    needed = readelf("-d", bundle / "libsubnet.so") + readelf("-d", bundle / "subnet")
    libraries = set(re.findall(r"\(NEEDED\).*\[([^\]]+)\]", needed))
    assert "libc.so.6" in libraries
    system = r"lib(c|m|dl|pthread)\.so\.\d+|ld-linux.*"
    assert [name for name in libraries if not re.fullmatch(system, name)] == []
    symbols = readelf("-W", "--dyn-syms", bundle / "libsubnet.so")
    public = re.findall(r"GLOBAL\s+DEFAULT\s+(?!UND)\d+\s+(\w+)", symbols)
    assert {name.removeprefix(manifest.symbol_prefix) for name in public} >= {"run", "time_device"}
    assert all(name.startswith(manifest.symbol_prefix) for name in public)
    # Every kernel is there for both architectures, in library and program.
    for name in ("libsubnet.so", "subnet"):
        kernels = find_fat_binaries((bundle / name).read_bytes())
        assert len(kernels) > 20
        assert {tuple(holds(entries)) for entries in kernels} == {tuple(wanted(ARCHITECTURES))}
    # And here, where no driver is found:
    done = subprocess.run(
        [str(bundle / "subnet"), "--benchmark", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={"LD_LIBRARY_PATH": str(no_driver(tmp_path))},
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: cannot run the network: no CUDA driver here: libcuda.so")
    assert "install NVIDIA's driver" in done.stderr


def readelf(*arguments: Any) -> str:
    command = ["readelf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def no_driver(folder: Path) -> Path:
    """Return a folder whose driver is found first, and is no library."""
    (folder / "libcuda.so.1").write_bytes(b"")
    return folder
