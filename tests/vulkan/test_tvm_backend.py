"""Vulkan as a target of TVM itself: what the unmodified wheel can do with our backend."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm_kernels import exponentials

from ofa_compile.cache import Cache
from ofa_compile.compiler.tvm_api import relax, s_tir, tvm
from ofa_compile.compiler.vulkan import tvm_plugin
from ofa_compile.errors import MissingDependencyError

pytestmark = [
    pytest.mark.vulkan,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]


def test_compile_export_load_and_time(
    tvm_target: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    # More than 65,535 workgroups, and not a multiple of them: the grid is folded.
    size = 66_000 * 64
    executable = tvm.compile(exponentials(size), target=tvm_target)
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


@pytest.mark.usefixtures("tvm_target")  # which builds the plug-in
def test_devices_that_exist() -> None:
    assert tvm.device("vulkan", 0).exist
    assert not tvm.device("vulkan", 97).exist


@pytest.mark.parametrize("has_scalar", [False, True])
def test_types_that_devices_may_lack_are_refused(tvm_target: Any, has_scalar: bool) -> None:
    # TVM passes errors on under a type of its own.
    with pytest.raises(RuntimeError, match="works on float64; Vulkan code here takes float32, fl"):
        tvm.compile(exponentials(128, "float64", has_scalar=has_scalar), target=tvm_target)


def test_numbers_are_passed(tvm_target: Any, rng: np.random.Generator) -> None:
    library = tvm.compile(exponentials(128, has_scalar=True), target=tvm_target)
    values = rng.random(128, dtype=np.float32)
    device = tvm.device("vulkan", 0)
    y = tvm.runtime.tensor(np.zeros(128, np.float32), device)
    library["main"](tvm.runtime.tensor(values, device), 2.5, y)
    np.testing.assert_allclose(y.numpy(), np.exp(values) + 2.5, rtol=1e-5)
    with pytest.raises(RuntimeError, match="takes a number of float16, which Vulkan cannot pass"):
        tvm.compile(exponentials(128, "float16", has_scalar=True), target=tvm_target)


def test_without_a_compiler_it_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path))
    monkeypatch.setattr(tvm_plugin.shutil, "which", lambda _: None)
    tvm_plugin.load_plugin.cache_clear()
    try:
        with pytest.raises(MissingDependencyError, match=r"no C\+\+ compiler") as got:
            tvm_plugin.enable_vulkan()
        assert got.value.hint == "sudo apt-get install g++"
    finally:
        tvm_plugin.load_plugin.cache_clear()


@pytest.mark.usefixtures("tvm_target")
def test_a_plugin_in_another_cache_is_not_loaded_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its names would be registered twice, which ends in an exception within the loader."""
    key = tvm_plugin.plugin_key()
    path = Cache().get(tvm_plugin.NAMESPACE, key)
    assert path is not None
    Cache(tmp_path).put(tvm_plugin.NAMESPACE, key, path.read_bytes())
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path))
    tvm_plugin.load_plugin.cache_clear()
    assert tvm_plugin.load_plugin()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_a_damaged_module_is_refused(tvm_target: Any) -> None:
    load = tvm.get_global_func("ffi.Module.load_from_bytes.vulkan")
    with pytest.raises(ValueError, match="no Vulkan module"):
        load(b"\x03\0\0\0abc")
    with pytest.raises(ValueError, match="cut off"):
        load(b"\xff\0\0\0abc")


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float16", 1e-2)])
def test_the_relax_virtual_machine(
    tvm_target: Any, rng: np.random.Generator, dtype: str, error: float
) -> None:
    x = relax.Var("x", relax.TensorType((4, 32), dtype))
    weight = rng.standard_normal((32, 8)).astype(dtype)
    block = relax.BlockBuilder()
    with block.function("main", [x]):
        with block.dataflow():
            product = block.emit(relax.op.matmul(x, relax.const(weight)))
            output = block.emit(relax.op.nn.softmax(product, -1))
            output = block.emit_output(relax.op.nn.gelu(output))
        block.emit_func_output(output)
    with tvm_target:
        module = relax.transform.LegalizeOps()(block.get())
        module = s_tir.dlight.ApplyDefaultSchedule(s_tir.dlight.gpu.Fallback())(module)
        executable = tvm.compile(module, target=tvm_target)
    device = tvm.device("vulkan", 0)
    values = rng.standard_normal((4, 32)).astype(dtype)
    machine = relax.VirtualMachine(executable, device)
    result = machine["main"](tvm.runtime.tensor(values, device)).numpy()
    assert result.dtype == dtype
    scores = np.exp(values.astype(np.float64) @ weight.astype(np.float64))
    shares = scores / scores.sum(axis=1, keepdims=True)
    gelu = shares * [[0.5 * (1 + math.erf(s / math.sqrt(2))) for s in row] for row in shares]
    assert np.abs(result - gelu).max() <= error * gelu.max()
