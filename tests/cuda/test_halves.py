"""float16 and TF32 in CUDA kernels: text on the CPU against numpy, and as machine code by nvcc.

None of this ran on a GPU. The stand-in for products of matrices follows PTX's layout of fragments
and adds in float32; only a GPU can tell whether its instruction does the same.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cases import ALL, convolution
from launches import MACHINE, check
from onnx_nets import mobile_net, reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.verify import tolerance_of
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.cuda.backend import CudaBackend
from ofa_compile.compiler.cuda.nvcc import compile_cuda, find_nvcc
from ofa_compile.compiler.gpu.kernels import generate_kernel
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.compiler.workload import GatedPointwise, Pointwise, Workload
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.kernels.gpu_matrix import is_matrix, pack_matrix

HALVES = dataclasses.replace(MACHINE, value_type="float16")
MATRICES = dataclasses.replace(HALVES, has_matrix_units=True)
TF32 = dataclasses.replace(MACHINE, has_matrix_units=True)
PRODUCTS: list[Workload] = [
    Pointwise(49, 16, 24, "hswish"),
    Pointwise(70, 40, 72, "relu6", True),  # half a step, and rows and tiles beyond whole ones
    Pointwise(1, 8, 8, "hsigmoid"),
    Pointwise(20, 12, 16, "relu"),  # three quarters of a step
    GatedPointwise(50, 24, 16, "relu", True, batch=2),
    GatedPointwise(36, 140, 16, batch=4),  # depth that slices share, and not evenly
    convolution(8, 16, height=12, has_residual=True, activation="relu"),
    convolution(20, 8, batch=2, stride=(2, 2)),
    convolution(4, 24, height=20, kernel=(5, 3), padding=(2, 0, 2, 2), stride=(2, 1)),
    convolution(136, 8, height=4, kernel=(1, 1), stride=(2, 2), padding=(0, 0, 0, 0)),
]


def source_of(work: Workload, machine: GpuMachine) -> str:
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
    function = kernel.build(work, kernel.configs(work, machine)[0], machine)
    return generate_kernel(function, work.kind, CudaBackend(["sm_75"])).text


@pytest.mark.slow
@pytest.mark.usefixtures("software")
@pytest.mark.parametrize("name", ALL)
def test_kernels_agree_with_numpy(
    name: str, cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    check(ALL[name], cuda, tmp_path, cache, rng, HALVES)


@pytest.mark.usefixtures("software")
@pytest.mark.parametrize("machine", [MATRICES, TF32], ids=["halves", "tf32"])
def test_products_of_matrices_agree_with_numpy(
    machine: GpuMachine, cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    items = []
    for work in PRODUCTS:
        kernel = find_kernel(work, "gpu")
        assert kernel is not None
        chosen = [c for c in kernel.configs(work, machine) if is_matrix(c)]
        assert chosen == kernel.configs(work, machine)[: len(chosen)]
        items += [(work, dict(config)) for config in chosen]
    assert len(items) > 6
    check(items, cuda, tmp_path, cache, rng, machine)


@pytest.mark.slow
@pytest.mark.usefixtures("software")
def test_a_network_is_right(
    cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    path = mobile_net().save(tmp_path / "net.onnx")
    target = target_in(cuda, "fp16")
    compiled = compile_onnx(path, target, tmp_path, symbol_prefix="h_", cache=cache)
    assert any(is_matrix(step["config"]) for step in compiled.steps)
    x = rng.standard_normal((1, 3, 24, 20), dtype=np.float32)
    with NativeLibrary(compiled.library, "h_") as library:
        expected = reference(path, x)
        error = np.abs(library.run(x) - expected).max() / np.abs(expected).max()
    assert 1e-6 < error <= tolerance_of("fp16")


def test_weights_are_rounded_to_the_nearest_tf32() -> None:
    step = 2.0**-10
    exact = [1.0, 1 + step, -4 * (1 + 5 * step), 2.0**-20]
    near = [1 + step / 2, 1 + step / 2.01, -1 - step / 2, 1 + 1.5 * step]
    weight = np.array([*exact, *near] * 8, np.float32).reshape(8, 8)
    packed, _ = pack_matrix(Pointwise(1, 8, 8), TF32, {"weight": weight, "bias": weight[0]})
    found = packed.reshape(8, 8)  # of one tile and step
    assert found[0].tolist() == [*exact, 1 + step, 1.0, -1 - step, 1 + 2 * step]
    assert (found == found[0]).all()


def test_what_tensor_cores_cannot_take_is_for_other_kernels() -> None:
    outside: list[Workload] = [
        Pointwise(49, 16, 10),
        convolution(16, 12),
        convolution(4, 16, input_layout="nchw"),
    ]
    for work in (*outside, Pointwise(49, 6, 24)):
        assert "ofa_product" not in source_of(work, MATRICES)
    for work in (*outside, Pointwise(49, 5, 24)):
        assert "ofa_product" not in source_of(work, TF32)
    for machine in (HALVES, MACHINE):
        assert "ofa_product" not in source_of(Pointwise(49, 16, 24), machine)


@pytest.mark.usefixtures("real_nvcc")
def test_tf32_is_rounded_and_multiplied_in_one_instruction_each(tmp_path: Path) -> None:
    (tmp_path / "kernel.cu").write_text(source_of(PRODUCTS[3], TF32), encoding="utf-8")
    command = [find_nvcc().path, "-ptx", "-arch=sm_80", "-std=c++17", f"-I{runtime_folder()}"]
    subprocess.run([*command, "-o", "ptx", "kernel.cu"], check=True, cwd=tmp_path)
    ptx = (tmp_path / "ptx").read_text()
    assert "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32" in ptx
    assert "cvt.rna.tf32.f32" in ptx
    assert "fma.rn.f32" not in ptx  # no activation, and all else by the tensor cores
    assert ".local" not in ptx


@pytest.mark.slow
@pytest.mark.usefixtures("real_nvcc")
@pytest.mark.parametrize(
    ("machine", "precision"),
    [(HALVES, "fp16"), (MATRICES, "fp16"), (TF32, "tf32")],
    ids=["pairs", "matrices", "tf32"],
)
def test_nvcc_takes_them_for_every_architecture(machine: GpuMachine, precision: str) -> None:
    architectures = target_in(load_target("cuda"), precision).toolchain.gpu_architectures
    for work in (PRODUCTS[1], PRODUCTS[3], PRODUCTS[7]):
        data = compile_cuda(source_of(work, machine), work.kind, architectures)
        assert data[:4] == bytes.fromhex("50ed55ba")
