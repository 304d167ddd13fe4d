"""Real nvcc, where it is installed, and what is said where it is not."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cases import ALL, convolution, depthwise

from ofa_compile.compiler.cuda import nvcc
from ofa_compile.compiler.cuda.backend import CudaBackend
from ofa_compile.compiler.cuda.nvcc import compile_cuda, find_nvcc
from ofa_compile.compiler.gpu.kernels import generate_kernel
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.workload import GatedPointwise, GlobalPool, Pointwise, Workload
from ofa_compile.errors import BuildError, MissingDependencyError
from ofa_compile.hardware.precision import ValueType

# Large enough for the largest tiles.
LARGE: list[Workload] = [
    Pointwise(64 * 784, 96, 64, "hswish", True),
    GatedPointwise(64 * 196, 240, 80, "none", batch=64),
    depthwise(56, 7, 1, 96, batch=64),
    depthwise(56, 5, 2, 96, batch=64),
    convolution(64, 64, height=56, width=56, batch=64),
]


def generated(work: Workload, machine: GpuMachine = GpuMachine(8192)) -> KernelSource:  # noqa: B008
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
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


@pytest.mark.slow
@pytest.mark.usefixtures("real_nvcc")
@pytest.mark.parametrize("value_type", ["float32", "float16"])
def test_every_kernel_is_taken_and_keeps_to_registers(
    value_type: ValueType, tmp_path: Path
) -> None:
    # In one file, since to start nvcc takes longer than to compile any of them.
    texts = []
    for number, work in enumerate([*(work for cases in ALL.values() for work in cases), *LARGE]):
        text = generated(work, GpuMachine(8192, value_type)).text
        texts.append(re.sub(rf"^{work.kind}\(", f"{work.kind}_{number}(", text, flags=re.MULTILINE))
    (tmp_path / "all.cu").write_text("".join(texts), encoding="utf-8")
    command = [find_nvcc().path, "-arch=sm_75", "-std=c++17", f"-I{nvcc.runtime_folder()}"]
    command += ["-cubin", "--resource-usage", "-o", "all.cubin", "all.cu"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    frames = [int(size) for size in re.findall(r"(\d+) bytes stack frame", said)]
    assert len(frames) == len(texts)
    assert set(frames) == {0}


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
