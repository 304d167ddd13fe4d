"""Vulkan as a device of TVM: float16, threads, other machines, failures, the validation layer."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import StockBoard
from checks import LAYER, WATCHED
from tvm_kernels import SIZE
from tvm_runs import Case, failing, run_cases

from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.remote import tvm_client

pytestmark = [
    pytest.mark.vulkan,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler"),
]
RESULT = pytest.approx(math.e + 1, rel=4e-3)


def test_halves(tvm_modules: Path, rng: np.random.Generator) -> None:
    library = tvm.runtime.load_module(str(tvm_modules / "float16.so"))
    device = tvm.device("vulkan", 0)
    values = rng.standard_normal(SIZE).astype(np.float16)
    y = tvm.runtime.tensor(np.zeros(SIZE, np.float16), device)
    library["main"](tvm.runtime.tensor(values, device), y)
    assert y.numpy().dtype == np.float16
    expected = np.exp(values.astype(np.float32)) + 1
    np.testing.assert_allclose(y.numpy(), expected, rtol=4e-3)
    # A float32 kernel on the same device would be nearer.
    assert np.abs(y.numpy() - expected).max() > 1e-5


def test_threads(tvm_modules: Path, rng: np.random.Generator) -> None:
    library = tvm.runtime.load_module(str(tvm_modules / "float32.so"))
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
def test_remote_calls(tvm_modules: Path, rng: np.random.Generator) -> None:
    board = StockBoard("vulkan")
    try:
        session = tvm_client.connect("127.0.0.1", board.endpoint.port, "vulkan")
        tvm_client.upload(session, "kernel.so", (tvm_modules / "float32.so").read_bytes())
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


FAILURES: dict[str, tuple[str, list[Any], dict[str, str], str]] = {
    "a name": ("compute", [], {"OFA_VULKAN_DEVICE": "no such GPU"}, "OFA_VULKAN_DEVICE names no"),
    "no driver": (
        "compute",
        [],
        {"VK_DRIVER_FILES": "/none", "VK_ICD_FILENAMES": "/none"},
        "driver",
    ),
    "memory": ("compute", [], failing("vkAllocateMemory", -2), "out of memory; close other progr"),
    "lost": ("compute", [], failing("vkQueueSubmit", -4), "lost, by a fault or a reset, and all"),
    "refusal": ("compute", [], failing("vkCreateDevice", -3), "failed (vkCreateDevice: -3)"),
    "no halves": (
        "compute",
        ["float16"],
        failing("vkGetPhysicalDeviceFeatures2", 0),
        "does not compute in float16; choose another",
    ),
    # What TVM calls from destructors must not end the process.
    "timer": ("measure", [], failing("vkQueueSubmit", -4, after=2), "lost, by a fault or a reset"),
    "hang": ("measure", [], failing("vkWaitForFences", 2, after=2), "no answer for"),
    # Nobody can be told when a module is unloaded; who reads its results is told.
    "unloaded": ("unload_then_read", [], failing("vkQueueSubmit", -1, times=1), "start this proc"),
}


@pytest.mark.usefixtures("tvm_elsewhere")
def test_failures_say_what_to_do(tvm_modules: Path, failing_loader: dict[str, str]) -> None:
    none = failing("none", 0)
    cases: list[Case] = [(a, b, {**none, **told}) for a, b, told, _ in FAILURES.values()]
    # A device without halves, or one that is named, computes all the same.
    cases.append(("compute", [], failing("vkGetPhysicalDeviceFeatures2", 0)))
    cases.append(("compute", [], {**none, "OFA_VULKAN_DEVICE": "0"}))
    results, _ = run_cases(tvm_modules, cases, **failing_loader)
    *errors, without_halves, named = results
    for name, text in zip(FAILURES, errors, strict=True):
        assert FAILURES[name][-1] in str(text), name
    assert without_halves == RESULT
    assert named == RESULT


@pytest.mark.usefixtures("tvm_elsewhere")
def test_failures_that_pass(tvm_modules: Path, failing_loader: dict[str, str]) -> None:
    cases: list[Case] = [
        # First a whole block, then what is needed, are too much; some is given back.
        ("compute", [], failing("vkAllocateMemory", -2, times=2)),
        ("compute_twice", [], failing("vkCreateComputePipelines", -1, times=1)),
        # What a failed submission was to compute is missing for good.
        ("compute_twice", [], failing("vkQueueSubmit", -1, times=1)),
    ]
    (memory, pipelines, submissions), _ = run_cases(tvm_modules, cases, **failing_loader)
    assert memory == RESULT
    assert "out of memory" in pipelines[0]
    assert pipelines[1] == RESULT
    for text in submissions:
        assert "(vkQueueSubmit: -1); what was to run is lost: start this process again" in text


@pytest.mark.usefixtures("tvm_elsewhere")
def test_tensors_share_allocations(tvm_modules: Path, failing_loader: dict[str, str]) -> None:
    """One for tensors, one for what the host sees."""
    cases: list[Case] = [
        ("compute", [], failing("vkAllocateMemory", -2, after=most)) for most in (2, 1)
    ]
    (enough, too_few), _ = run_cases(tvm_modules, cases, **failing_loader)
    assert enough == RESULT
    assert "out of memory; close other programs" in str(too_few)


@pytest.mark.usefixtures("tvm_elsewhere")
def test_submissions_end_somewhere(tvm_modules: Path, failing_loader: dict[str, str]) -> None:
    """Launches are one submission, but not without end; two are the tensors'."""

    def case(launches: int, submissions: int) -> Case:
        told = failing("vkQueueSubmit", -4, after=submissions)
        return ("launch", ["float32", 0, launches], told)

    cases = [case(1000, 3), case(3000, 5), case(1, 2), case(3000, 4)]
    (one, three, *too_few), _ = run_cases(tvm_modules, cases, **failing_loader)
    assert one == RESULT
    assert three == RESULT
    for text in too_few:
        assert "was lost" in str(text)


@pytest.mark.usefixtures("tvm_elsewhere")
def test_pipelines_are_kept(tvm_modules: Path, tmp_path: Path) -> None:
    case = ("compute", [], {"OFA_VULKAN_CACHE": str(tmp_path)})
    sizes = []
    for _ in ("new", "known", "damaged"):
        results, _ = run_cases(tvm_modules, [case])
        assert results == [RESULT]
        (file,) = tmp_path.glob("*.pipelines")
        sizes.append(file.stat().st_size)
        file.write_bytes(file.read_bytes()[: 20 if len(sizes) == 2 else None])
    assert sizes[0] == sizes[1] == sizes[2] > 20


@pytest.mark.usefixtures("tvm_target")
def test_a_number_that_no_device_has() -> None:
    with pytest.raises(RuntimeError, match="this machine has no Vulkan device 97"):
        tvm.runtime.tensor(np.zeros(1, np.float32), tvm.device("vulkan", 97))


@pytest.mark.usefixtures("tvm_target")
def test_more_memory_than_there_is() -> None:
    with pytest.raises(RuntimeError, match="out of memory; close other programs"):
        tvm.runtime.empty((2**45,), "float32", tvm.device("vulkan", 0))


def test_a_kernel_needs_its_arguments(tvm_modules: Path) -> None:
    library = tvm.runtime.load_module(str(tvm_modules / "float32.so"))
    with pytest.raises(TypeError, match="takes 4 arguments, not 0"):
        library.imports[0]["main_kernel"]()


@pytest.mark.usefixtures("tvm_elsewhere")
@pytest.mark.skipif(not LAYER.is_file(), reason="no validation layer")
def test_the_validation_layer_is_silent(tvm_modules: Path, failing_loader: dict[str, str]) -> None:
    (result,), said = run_cases(
        tvm_modules, [("do_everything", [], failing("none", 0))], **WATCHED, **failing_loader
    )
    assert result == RESULT
    for word in ("VUID", "Validation", "SYNC-"):
        assert word not in said, said
    # Without barriers it has something to say.
    case = ("compute", [], failing("vkCmdPipelineBarrier", 0))
    assert "SYNC-HAZARD" in run_cases(tvm_modules, [case], **WATCHED, **failing_loader)[1]
