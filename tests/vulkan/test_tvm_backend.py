"""Vulkan as a target of TVM itself: what the unmodified wheel can do with our backend."""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checks import check_exported_shaders
from tvm_kernels import exponentials, long_sums, small_network

from ofa_compile.compiler.tvm_api import relax, tvm

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


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Let the process have one GB more at most."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2**30
    resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_a_damaged_module_is_refused(tvm_target: Any) -> None:
    load = tvm.get_global_func("ffi.Module.load_from_bytes.vulkan")
    with pytest.raises(ValueError, match="no Vulkan module"):
        load(b"\x03\0\0\0abc")
    with pytest.raises(ValueError, match="cut off"):
        load(b"\xff\0\0\0abc")
    # A kernel of as many parameters as a number can say, and no room for them.
    kernel = b"\x0c\0\0\0ofa-vulkan-3\x01\0\0\0\x01\0\0\0f\xff\xff\xff\xff"
    with little_memory(), pytest.raises(ValueError, match="cut off at byte 29"):
        load(kernel)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float16", 1e-2)])
def test_the_relax_virtual_machine(
    tvm_target: Any, rng: np.random.Generator, dtype: str, error: float
) -> None:
    weight = rng.standard_normal((32, 8)).astype(dtype)
    executable = small_network(weight, tvm_target)
    device = tvm.device("vulkan", 0)
    values = rng.standard_normal((4, 32)).astype(dtype)
    machine = relax.VirtualMachine(executable, device)
    result = machine["main"](tvm.runtime.tensor(values, device)).numpy()
    assert result.dtype == dtype
    scores = np.exp(values.astype(np.float64) @ weight.astype(np.float64))
    shares = scores / scores.sum(axis=1, keepdims=True)
    gelu = shares * [[0.5 * (1 + math.erf(s / math.sqrt(2))) for s in row] for row in shares]
    assert np.abs(result - gelu).max() <= error * gelu.max()


def test_the_devices_clock(tvm_target: Any) -> None:
    """Twice the work takes twice the time, and no longer than the host has waited."""
    device = tvm.device("vulkan", 0)
    y = tvm.runtime.tensor(np.zeros(4096, np.float32), device)
    times = {}
    for num_terms in (4096, 8192):
        library = tvm.compile(long_sums(num_terms), target=tvm_target)
        x = tvm.runtime.tensor(np.zeros(num_terms, np.float32), device)
        library["main"](x, y)  # compiles the pipeline
        device.sync()
        evaluate = library.mod.time_evaluator("main", device, number=2, repeat=5)
        start = time.perf_counter()
        found = evaluate(x, y).results
        waited = time.perf_counter() - start
        # The evaluator runs it once more than it counts.
        assert 0.5 * waited < 11 * np.mean(found) < 1.2 * waited
        times[num_terms] = min(found)
    assert 1.5 < times[8192] / times[4096] < 2.7


@pytest.mark.skipif(shutil.which("spirv-val") is None, reason="no spirv-val")
def test_shaders_are_valid(tvm_modules: Path, tmp_path: Path) -> None:
    counts = {p.name: check_exported_shaders(p, tmp_path) for p in tvm_modules.glob("*.so")}
    assert counts["float32.so"] == counts["float16.so"] == 1
    assert counts["network.so"] >= 3
