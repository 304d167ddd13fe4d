"""Vulkan as a target of TVM itself: what the unmodified wheel can do with our backend."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.compiler.tvm_api import relax, s_tir, tvm
from ofa_compile.compiler.vulkan import tvm_backend

pytestmark = [
    pytest.mark.vulkan,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def target() -> Any:
    tvm_backend.autoload()
    return tvm_backend.vulkan_target()


def scheduled(size: int, dtype: str = "float32") -> Any:
    """Return `y = exp(x) + 1`, 64 threads a workgroup."""
    te = tvm.te
    x = te.placeholder((size,), dtype, name="x")
    one = tvm.tirx.const(1, dtype)
    y = te.compute((size,), lambda i: te.exp(x[i]) + one, name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    outer, inner = schedule.split(loop, [None, 64])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    return schedule.mod


def test_compile_export_load_and_time(
    target: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    # More than 65,535 workgroups, and not a multiple of them: the grid is folded.
    size = 66_000 * 64
    executable = tvm.compile(scheduled(size), target=target)
    path = tmp_path / "kernel.so"
    executable.export_library(str(path))
    library = tvm.runtime.load_module(str(path))
    device = tvm.device("vulkan", 0)
    values = rng.random(size, dtype=np.float32)
    x = tvm.runtime.tensor(values, device)
    y = tvm.runtime.tensor(np.zeros(size, np.float32), device)
    library["main"](x, y)
    np.testing.assert_allclose(y.numpy(), np.exp(values) + 1, rtol=1e-5)
    assert library.time_evaluator("main", device, number=1, repeat=1)(x, y).mean > 0


@pytest.mark.usefixtures("target")  # which builds the plug-in
def test_devices_that_exist() -> None:
    assert tvm.device("vulkan", 0).exist
    assert not tvm.device("vulkan", 97).exist


def test_types_that_need_a_feature_are_refused(target: Any) -> None:
    # TVM passes errors on under a type of its own.
    with pytest.raises(RuntimeError, match="works on float16"):
        tvm.compile(scheduled(128, "float16"), target=target)


def test_a_damaged_module_is_refused(target: Any) -> None:
    load = tvm.get_global_func("ffi.Module.load_from_bytes.vulkan")
    with pytest.raises(ValueError, match="no Vulkan module"):
        load(b"\x03\0\0\0abc")
    with pytest.raises(ValueError, match="cut off"):
        load(b"\xff\0\0\0abc")


def test_the_relax_virtual_machine(target: Any, rng: np.random.Generator) -> None:
    x = relax.Var("x", relax.TensorType((4, 32), "float32"))
    weight = rng.standard_normal((32, 8), dtype=np.float32)
    block = relax.BlockBuilder()
    with block.function("main", [x]):
        with block.dataflow():
            product = block.emit(relax.op.matmul(x, relax.const(weight)))
            output = block.emit_output(relax.op.nn.softmax(product, -1))
        block.emit_func_output(output)
    with target:
        module = relax.transform.LegalizeOps()(block.get())
        module = s_tir.dlight.ApplyDefaultSchedule(s_tir.dlight.gpu.Fallback())(module)
        executable = tvm.compile(module, target=target)
    device = tvm.device("vulkan", 0)
    values = rng.standard_normal((4, 32), dtype=np.float32)
    machine = relax.VirtualMachine(executable, device)
    result = machine["main"](tvm.runtime.tensor(values, device)).numpy()
    scores = np.exp(values @ weight)
    np.testing.assert_allclose(result, scores / scores.sum(axis=1, keepdims=True), rtol=1e-4)
