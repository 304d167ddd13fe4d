"""float16 in CUDA kernels: their text on the CPU against numpy, and as machine code by nvcc.

None of this ran on a GPU. The stand-in for products of matrices follows PTX's layout of fragments
and adds in float32; only a GPU can tell whether its instruction does the same.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from cases import ALL
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
from ofa_compile.compiler.workload import GatedPointwise, Pointwise, Workload
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target

HALVES = dataclasses.replace(MACHINE, value_type="float16")
MATRICES = dataclasses.replace(HALVES, has_matrix_units=True)
PRODUCTS: list[Workload] = [
    Pointwise(49, 16, 24, "hswish"),
    Pointwise(70, 40, 72, "relu6", True),  # half a step, and rows and tiles beyond whole ones
    Pointwise(1, 8, 8, "hsigmoid"),
    GatedPointwise(50, 24, 16, "relu", True, batch=2),
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
def test_products_of_matrices_agree_with_numpy(
    cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    items = []
    for work in PRODUCTS:
        kernel = find_kernel(work, "gpu")
        assert kernel is not None
        chosen = [c for c in kernel.configs(work, MATRICES) if "matrix_tiles" in c]
        assert chosen == kernel.configs(work, MATRICES)[: len(chosen)]
        items += [(work, dict(config)) for config in chosen]
    assert len(items) > 6
    check(items, cuda, tmp_path, cache, rng, MATRICES)


@pytest.mark.slow
@pytest.mark.usefixtures("software")
def test_a_network_is_right(
    cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    path = mobile_net().save(tmp_path / "net.onnx")
    target = target_in(cuda, "fp16")
    compiled = compile_onnx(path, target, tmp_path, symbol_prefix="h_", cache=cache)
    assert any("matrix_tiles" in step["config"] for step in compiled.steps)
    x = rng.standard_normal((1, 3, 24, 20), dtype=np.float32)
    with NativeLibrary(compiled.library, "h_") as library:
        expected = reference(path, x)
        error = np.abs(library.run(x) - expected).max() / np.abs(expected).max()
    assert 1e-6 < error <= tolerance_of("fp16")


def test_what_tensor_cores_cannot_take_is_for_other_kernels() -> None:
    for work in (Pointwise(49, 12, 24), Pointwise(49, 16, 10)):
        assert "ofa_product" not in source_of(work, MATRICES)
    assert "ofa_product" not in source_of(Pointwise(49, 16, 24), HALVES)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [HALVES, MATRICES], ids=["pairs", "matrices"])
def test_nvcc_takes_them_for_every_architecture(
    machine: GpuMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_HOME", raising=False)
    try:
        find_nvcc()
    except MissingDependencyError as err:
        pytest.skip(f"{err}; {err.hint}")
    architectures = load_target("cuda").toolchain.gpu_architectures
    for work in (PRODUCTS[1], PRODUCTS[3]):
        data = compile_cuda(source_of(work, machine), work.kind, architectures)
        assert data[:4] == bytes.fromhex("50ed55ba")
