"""Real nvcc, where it is installed, and what is said where it is not."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.compiler.cuda import nvcc
from ofa_compile.compiler.cuda.backend import CudaBackend
from ofa_compile.compiler.cuda.nvcc import compile_cuda, find_nvcc
from ofa_compile.compiler.gpu.kernels import generate_kernel
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.workload import GlobalPool, Pointwise, Workload
from ofa_compile.errors import BuildError, MissingDependencyError


@pytest.fixture
def real_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    try:
        find_nvcc()
    except MissingDependencyError as err:
        pytest.skip(f"{err}; {err.hint}")


def generated(work: Workload) -> KernelSource:
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
    machine = GpuMachine(8192)
    function: Any = kernel.build(work, kernel.configs(work, machine)[0], machine)
    return generate_kernel(function, work.kind, CudaBackend(["sm_75"]))


def test_floats_are_not_doubles() -> None:
    text = generated(GlobalPool(1, 49, 40)).text
    assert "vec4(0.0f)" in text
    assert "__shared__ vec4" in text


def test_inputs_are_constant_and_do_not_overlap() -> None:
    text = generated(Pointwise(49, 16, 24)).text
    assert text.count("const vec4 *__restrict__") == 3
    assert text.count("*__restrict__") == 4


def test_a_large_batch_has_a_long_grid() -> None:
    found = generated(Pointwise(64 * 512 * 512, 24, 72))
    assert found.grid is not None
    assert found.grid[0] > 65535
    assert found.grid[1] < 65535


@pytest.mark.usefixtures("real_nvcc")
def test_vectors_are_read_in_one_instruction(tmp_path: Path) -> None:
    source = generated(Pointwise(196, 96, 64, "hswish", True))
    file = tmp_path / "kernel.cu"
    file.write_text(source.text)
    command = [find_nvcc().path, "-ptx", "-arch=sm_75", "-std=c++17", "-o", str(tmp_path / "ptx")]
    include = f"-I{nvcc.runtime_folder()}"
    subprocess.run([*command, include, str(file)], check=True)
    ptx = (tmp_path / "ptx").read_text()
    assert "ld.global.nc.v4" in ptx
    assert "st.global.v4" in ptx
    assert "fma.rn.f32" in ptx
    assert "ld.global.nc.f32" not in ptx
    assert ".f64" not in ptx
    assert ".local" not in ptx  # what should be registers


@pytest.mark.usefixtures("real_nvcc")
def test_a_kernel_becomes_machine_code() -> None:
    data = compile_cuda(generated(GlobalPool(1, 49, 40)).text, "global_pool", ["sm_75"])
    assert data[:4] == bytes.fromhex("50ed55ba")  # of fat binaries
    assert len(data) > 1000


@pytest.mark.usefixtures("real_nvcc")
def test_what_nvcc_refuses() -> None:
    with pytest.raises(BuildError, match=r"refuses the kernel of nonsense.*error"):
        compile_cuda("nonsense;", "nonsense", ["sm_75"])


def test_no_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(nvcc, "_USUAL_PLACE", "/nowhere/nvcc")
    with pytest.raises(MissingDependencyError, match="no nvcc") as got:
        find_nvcc()
    assert "nvidia-cuda-toolkit" in str(got.value.hint)


def test_versions_as_drivers_count() -> None:
    found = nvcc.Nvcc("nvcc", "12.4")
    assert found.driver_version == 12040
    assert dataclasses.replace(found, version="13.0").driver_version == 13000
