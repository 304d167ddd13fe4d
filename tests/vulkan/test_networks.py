"""Whole networks on a Vulkan device: numbers, errors, memory, the validation layer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checks import LAYER, check_shaders, check_silence
from networks import PREFIX, build_small, check_memory, check_numbers, check_threads

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.vulkan_devices import list_vulkan_devices

pytestmark = pytest.mark.vulkan


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, vulkan: TargetSpec, cache: Cache
) -> tuple[Path, CompiledNetwork]:
    """A small MobileNet as ONNX, and compiled with its executable."""
    return build_small(tmp_path_factory.mktemp("vulkan-net"), vulkan, cache)


@pytest.fixture
def library(built: tuple[Path, CompiledNetwork]) -> Iterator[NativeLibrary]:
    with NativeLibrary(built[1].library, PREFIX) as loaded:
        yield loaded


def call(
    built: tuple[Path, CompiledNetwork], *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the executable."""
    return subprocess.run(
        [str(built[1].executable), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, **environment},
    )


def test_a_mobile_network_agrees_with_onnx(
    built: tuple[Path, CompiledNetwork], library: NativeLibrary, rng: np.random.Generator
) -> None:
    check_numbers(built[0], library, rng)
    # Squeeze-excite is applied by the product that follows.
    kinds = [step["workload"]["kind"] for step in built[1].steps]
    assert "gated_pointwise" in kinds
    assert "scale_channels" not in kinds


def test_threads_take_turns(library: NativeLibrary, rng: np.random.Generator) -> None:
    check_threads(library, rng)


def test_the_devices_clock(library: NativeLibrary) -> None:
    x = np.zeros((1, 3, 24, 20), np.float32)
    times = library.time_device(x, repeats=3)
    assert times.shape == (3,)
    assert (times > 0).all()


def test_a_thousand_runs_leak_nothing(library: NativeLibrary) -> None:
    check_memory(library)


@pytest.mark.skipif(not LAYER.is_file(), reason="no validation layer")
def test_the_validation_layer_is_silent(built: tuple[Path, CompiledNetwork]) -> None:
    assert built[1].executable is not None
    check_silence(built[1].executable)


@pytest.mark.skipif(shutil.which("spirv-val") is None, reason="no spirv-val")
def test_shaders_are_valid(
    built: tuple[Path, CompiledNetwork], cache: Cache, tmp_path: Path
) -> None:
    assert check_shaders(cache, tmp_path) >= 8


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"OFA_VULKAN_DEVICE": "no such GPU"}, "OFA_VULKAN_DEVICE names no device"),
        ({"OFA_VULKAN_DEVICE": "97"}, "OFA_VULKAN_DEVICE names no device"),
        ({"VK_ICD_FILENAMES": "/none", "VK_DRIVER_FILES": "/none"}, "install your GPU's driver"),
    ],
)
def test_no_device_is_a_clear_error(
    built: tuple[Path, CompiledNetwork], environment: dict[str, str], words: str
) -> None:
    done = call(built, "--benchmark", "1", **environment)
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_no_loader_is_a_clear_error(built: tuple[Path, CompiledNetwork], tmp_path: Path) -> None:
    for name in ("libvulkan.so.1", "libvulkan.so"):
        (tmp_path / name).write_bytes(b"")  # found first, and no library
    done = call(built, "--benchmark", "1", LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 4
    assert "libvulkan.so.1 cannot be loaded; install the Vulkan loader" in done.stderr


@pytest.mark.parametrize(
    ("name", "result", "words"),
    [
        ("vkAllocateMemory", -2, "out of memory; close other programs that use it (vkAllocate"),
        ("vkCreateBuffer", -1, "out of memory"),
        ("vkQueueSubmit", -4, "was lost, by a fault or a reset; the next run opens it again"),
        ("vkWaitForFences", -4, "(vkWaitForFences: -4)"),
        ("vkWaitForFences", 2, "does not answer; end this program; a run that needs longer may"),
        ("vkWaitForFences", 2, "(no answer for 120 s)"),
        ("vkCreateDevice", -3, "driver failed (vkCreateDevice: -3); update your GPU's driver"),
        ("vkGetPhysicalDeviceProperties", 256, "choose another device with OFA_VULKAN_DEVICE, or"),
        ("vkCreateComputePipelines", -2, "out of memory"),
    ],
)
def test_failures_of_the_driver_say_what_to_do(
    built: tuple[Path, CompiledNetwork],
    failing_loader: dict[str, str],
    name: str,
    result: int,
    words: str,
) -> None:
    failure = {"OFA_FAILING_CALL": name, "OFA_FAILING_RESULT": str(result)}
    done = call(built, "--benchmark", "1", "--warmup", "0", **failing_loader, **failure)
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_patience_is_a_choice(
    built: tuple[Path, CompiledNetwork], failing_loader: dict[str, str]
) -> None:
    failure = {"OFA_FAILING_CALL": "vkWaitForFences", "OFA_FAILING_RESULT": "2"}
    done = call(built, "--benchmark", "1", OFA_GPU_TIMEOUT_S="0.5", **failing_loader, **failure)
    assert done.returncode == 4
    assert "(no answer for 0.5 s)" in done.stderr


def test_a_device_is_chosen_by_number_or_name(built: tuple[Path, CompiledNetwork]) -> None:
    for number, device in enumerate(list_vulkan_devices()):
        for name in (str(number), device.name, device.name.upper()):
            done = call(built, "--benchmark", "1", "--warmup", "0", OFA_VULKAN_DEVICE=name)
            assert "1 repeats" in done.stdout, done.stderr


def test_a_run_is_one_submission(
    built: tuple[Path, CompiledNetwork], failing_loader: dict[str, str]
) -> None:
    def submissions(repeats: int) -> int:
        """Return how many submissions a program needs that runs so often."""
        failure = {"OFA_FAILING_CALL": "vkQueueSubmit", "OFA_FAILING_RESULT": "-4"}
        for allowed in range(1, 20):
            told = {**failing_loader, **failure, "OFA_FAILING_AFTER": str(allowed)}
            if call(built, "--benchmark", str(repeats), "--warmup", "0", **told).returncode == 0:
                return allowed
        pytest.fail("20 submissions are not enough")

    assert submissions(4) - submissions(1) == 3


def test_pipelines_are_kept_where_asked(
    built: tuple[Path, CompiledNetwork], tmp_path: Path
) -> None:
    arguments = ("--benchmark", "1", "--warmup", "0")
    assert call(built, *arguments, OFA_VULKAN_CACHE=str(tmp_path)).returncode == 0
    (file,) = tmp_path.iterdir()
    kept = file.read_bytes()
    assert len(kept) >= 40  # its checksum, and at least the driver's header
    # What is damaged is neither believed nor fatal.
    file.write_bytes(kept[:20] + b"\xff" + kept[21:])
    assert call(built, *arguments, OFA_VULKAN_CACHE=str(tmp_path)).returncode == 0
    nowhere = str(tmp_path / "missing")
    assert call(built, *arguments, OFA_VULKAN_CACHE=nowhere).returncode == 0
