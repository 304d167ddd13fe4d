"""Vulkan as a device of TVM: float16, threads, other machines, failures, the validation layer."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import StockBoard
from checks import LAYER
from tvm_kernels import exponentials

from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.remote import tvm_client

pytestmark = [
    pytest.mark.vulkan,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]
# Of tvm_program.py.
SIZE, RESULT = 128, math.e + 1


@pytest.fixture(scope="module")
def modules(tvm_target: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an exported module for each type."""
    folder = tmp_path_factory.mktemp("tvm-modules")
    for dtype in ("float32", "float16"):
        compiled = tvm.compile(exponentials(SIZE, dtype), target=tvm_target)
        compiled.export_library(str(folder / f"{dtype}.so"))
    return folder


def test_halves(modules: Path, rng: np.random.Generator) -> None:
    library = tvm.runtime.load_module(str(modules / "float16.so"))
    device = tvm.device("vulkan", 0)
    values = rng.standard_normal(SIZE).astype(np.float16)
    y = tvm.runtime.tensor(np.zeros(SIZE, np.float16), device)
    library["main"](tvm.runtime.tensor(values, device), y)
    assert y.numpy().dtype == np.float16
    expected = np.exp(values.astype(np.float32)) + 1
    np.testing.assert_allclose(y.numpy(), expected, rtol=4e-3)
    # A float32 kernel on the same device would be nearer.
    assert np.abs(y.numpy() - expected).max() > 1e-5


def test_threads(modules: Path, rng: np.random.Generator) -> None:
    library = tvm.runtime.load_module(str(modules / "float32.so"))
    device = tvm.device("vulkan", 0)

    def call(values: np.ndarray) -> np.ndarray:
        x, y = (tvm.runtime.tensor(array, device) for array in (values, np.zeros_like(values)))
        for _ in range(20):
            library["main"](x, y)
        return y.numpy()

    inputs = rng.random((8, SIZE), dtype=np.float32)
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_allclose(list(pool.map(call, inputs)), np.exp(inputs) + 1, rtol=1e-5)


@pytest.mark.usefixtures("tvm_elsewhere")
def test_remote_calls(modules: Path, rng: np.random.Generator) -> None:
    board = StockBoard("vulkan")
    try:
        session = tvm_client.connect("127.0.0.1", board.endpoint.port, "vulkan")
        tvm_client.upload(session, "kernel.so", (modules / "float32.so").read_bytes())
        library = tvm_client.load_module(session, "kernel.so")
        device = session.device("vulkan", 0)
        values = rng.random(SIZE, dtype=np.float32)
        x, y = (tvm.runtime.tensor(array, device) for array in (values, np.zeros_like(values)))
        library["main"](x, y)
        np.testing.assert_allclose(y.numpy(), np.exp(values) + 1, rtol=1e-5)
        assert library.time_evaluator("main", device, number=2, repeat=1)(x, y).mean > 0
        tvm_client.close(session)
    finally:
        board.kill()


def run_cases(
    modules: Path, cases: list[tuple[str, str, dict[str, str]]], **environment: str
) -> tuple[list[float | str], str]:
    """Return the results of tvm_program.py, and what was printed before them."""
    program = Path(__file__).with_name("tvm_program.py")
    done = subprocess.run(
        [sys.executable, str(program), str(modules), json.dumps(cases)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    *said, results = done.stdout.splitlines()
    return json.loads(results), "\n".join(said) + done.stderr


def failing(call: str, result: int) -> dict[str, str]:
    return {"OFA_FAILING_CALL": call, "OFA_FAILING_RESULT": str(result)}


FAILURES = {
    "a name": ("float32", {"OFA_VULKAN_DEVICE": "no such GPU"}, "OFA_VULKAN_DEVICE names no"),
    "no driver": ("float32", {"VK_DRIVER_FILES": "/none", "VK_ICD_FILENAMES": "/none"}, "driver"),
    "memory": ("float32", failing("vkAllocateMemory", -2), "out of memory; close other programs"),
    "lost": ("float32", failing("vkQueueSubmit", -4), "lost, by a hang or a reset, and all that"),
    "refusal": ("float32", failing("vkCreateDevice", -3), "failed (vkCreateDevice: -3)"),
    "no halves": (
        "float16",
        failing("vkGetPhysicalDeviceFeatures2", 0),
        "does not compute in float16; choose another",
    ),
}


@pytest.mark.usefixtures("tvm_elsewhere")
def test_failures_say_what_to_do(modules: Path, failing_loader: dict[str, str]) -> None:
    none = failing("none", 0)
    cases = [(f"{d}.so", d, {**none, **changes}) for d, changes, _ in FAILURES.values()]
    # A device without halves, or one that is named, computes all the same.
    cases.append(("float32.so", "float32", failing("vkGetPhysicalDeviceFeatures2", 0)))
    cases.append(("float32.so", "float32", {**none, "OFA_VULKAN_DEVICE": "0"}))
    results, _ = run_cases(modules, cases, **failing_loader)
    *errors, without_halves, named = results
    for name, text in zip(FAILURES, errors, strict=True):
        assert FAILURES[name][2] in str(text), name
    assert without_halves == pytest.approx(RESULT)
    assert named == pytest.approx(RESULT)


@pytest.mark.usefixtures("tvm_elsewhere")
def test_tensors_share_allocations(modules: Path, failing_loader: dict[str, str]) -> None:
    """One for tensors, one for what the host sees."""
    failure = failing("vkAllocateMemory", -2)
    cases = [
        ("float32.so", "float32", {**failure, "OFA_FAILING_AFTER": str(most)}) for most in (2, 1)
    ]
    (enough, too_few), _ = run_cases(modules, cases, **failing_loader)
    assert enough == pytest.approx(RESULT)
    assert "out of memory; close other programs" in str(too_few)


@pytest.mark.usefixtures("tvm_elsewhere")
def test_pipelines_are_kept(modules: Path, tmp_path: Path) -> None:
    case = ("float32.so", "float32", {"OFA_VULKAN_CACHE": str(tmp_path)})
    sizes = []
    for _ in ("new", "known", "damaged"):
        results, _ = run_cases(modules, [case])
        assert results == pytest.approx([RESULT])
        (file,) = tmp_path.glob("*.pipelines")
        sizes.append(file.stat().st_size)
        file.write_bytes(file.read_bytes()[: 20 if len(sizes) == 2 else None])
    assert sizes[0] == sizes[1] == sizes[2] > 20


@pytest.mark.usefixtures("tvm_target")
def test_a_number_that_no_device_has() -> None:
    with pytest.raises(RuntimeError, match="this machine has no Vulkan device 97"):
        tvm.runtime.tensor(np.zeros(1, np.float32), tvm.device("vulkan", 97))


@pytest.mark.usefixtures("tvm_elsewhere")
@pytest.mark.skipif(not LAYER.is_file(), reason="no validation layer")
def test_the_validation_layer_is_silent(modules: Path, failing_loader: dict[str, str]) -> None:
    layer = {
        "VK_INSTANCE_LAYERS": "VK_LAYER_KHRONOS_validation",
        "VK_LAYER_ENABLES": "VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT",
    }
    cases = [(f"{d}.so", d, failing("none", 0)) for d in ("float32", "float16")]
    results, said = run_cases(modules, cases, **layer, **failing_loader)
    assert results == pytest.approx([RESULT, RESULT], rel=4e-3)
    for word in ("VUID", "Validation", "SYNC-"):
        assert word not in said, said
    # Without barriers it has something to say.
    cases = [("float32.so", "float32", failing("vkCmdPipelineBarrier", 0))]
    assert "SYNC-HAZARD" in run_cases(modules, cases, **layer, **failing_loader)[1]
