"""Whole CUDA bundles, whose kernels run on the CPU: numbers, what the launcher does, errors."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from networks import PREFIX, build_small, check_memory, check_numbers, check_threads

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork
from ofa_compile.hardware.target_spec import TargetSpec

# A failure in a call, the call's name, and what the message must say.
OUT_OF_MEMORY, NO_DEVICE, INVALID_IMAGE, NO_BINARY, OLD_PTX, FAULT = 2, 100, 200, 209, 222, 700
UNAVAILABLE, TOO_LARGE, NOT_READY, MISMATCH = 46, 701, 802, 803


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, software: Path, cuda: TargetSpec, cache: Cache
) -> tuple[Path, CompiledNetwork]:
    """A small MobileNet as ONNX, and compiled with its executable."""
    return build_small(tmp_path_factory.mktemp("cuda-net"), cuda, cache)


@pytest.fixture
def library(built: tuple[Path, CompiledNetwork]) -> Iterator[NativeLibrary]:
    with NativeLibrary(built[1].library, PREFIX) as loaded:
        yield loaded


@pytest.fixture
def call(built: tuple[Path, CompiledNetwork], software: Path):
    """Run the executable once, with something set in its environment."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(built[1].executable), *(arguments or ("--benchmark", "1", "--warmup", "0"))],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "LD_LIBRARY_PATH": str(software), **environment},
        )

    return run


def test_a_mobile_network_agrees_with_onnx(
    built: tuple[Path, CompiledNetwork], library: NativeLibrary, rng: np.random.Generator
) -> None:
    check_numbers(built[0], library, rng)


def test_threads_take_turns(library: NativeLibrary, rng: np.random.Generator) -> None:
    check_threads(library, rng)


def test_every_step_is_timed(library: NativeLibrary, built: tuple[Path, CompiledNetwork]) -> None:
    times = library.time_steps(np.zeros((1, 3, 24, 20), np.float32), repeats=2, warmup=1)
    assert times.shape == (2, len(built[1].steps))
    assert (times == 1).all()  # the driver of the test says so


def test_the_devices_clock_sees_one_graph(library: NativeLibrary) -> None:
    x = np.zeros((1, 3, 24, 20), np.float32)
    expected = library.run(x)
    assert library.time_device(x, repeats=3, warmup=1).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(library.run(x), expected)


def calls_of(log: Path) -> Counter[str]:
    return Counter(log.read_text().split())


def test_a_run_is_one_graph_and_one_wait(
    built: tuple[Path, CompiledNetwork], call, tmp_path: Path
) -> None:
    counts = []
    for repeats in (1, 11):
        log = tmp_path / f"{repeats}.log"
        arguments = ("--benchmark", str(repeats), "--warmup", "0")
        assert call(*arguments, OFA_SOFTWARE_LOG=str(log)).returncode == 0
        counts.append(calls_of(log))
    once, often = counts
    turns = {"cuGraphLaunch": 10, "cuStreamSynchronize": 10}
    turns |= {"cuCtxPushCurrent_v2": 10, "cuCtxPopCurrent_v2": 10}
    assert {name: often[name] - once[name] for name in often if often[name] != once[name]} == turns
    # Memory once, weights up once; every kernel tried once, and captured once.
    assert once["cuMemAlloc_v2"] == once["cuMemFree_v2"] == 2
    assert once["cuMemcpyHtoD_v2"] == once["cuMemcpyHtoDAsync_v2"] == 1
    assert once["cuLaunchKernel"] == 2 * len(built[1].steps)
    assert once["cuStreamBeginCapture_v2"] == once["cuGraphInstantiateWithFlags"] == 1
    assert once["cuModuleLoadData"] == len({step["symbol"] for step in built[1].steps})


def test_all_is_given_back(call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call(OFA_SOFTWARE_LOG=str(log)).returncode == 0
    counts = calls_of(log)
    pairs = {
        "cuMemAlloc_v2": "cuMemFree_v2",
        "cuMemHostAlloc": "cuMemFreeHost",
        "cuModuleLoadData": "cuModuleUnload",
        "cuStreamCreate": "cuStreamDestroy_v2",
        "cuGraphInstantiateWithFlags": "cuGraphExecDestroy",
        "cuStreamEndCapture": "cuGraphDestroy",
        "cuDevicePrimaryCtxRetain": "cuDevicePrimaryCtxRelease_v2",
        "cuCtxPushCurrent_v2": "cuCtxPopCurrent_v2",
    }
    for taken, given in pairs.items():
        assert counts[taken] == counts[given] > 0, taken


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LD_LIBRARY_PATH": "/nowhere"}, "libcuda.so.1 cannot be loaded; install NVIDIA's"),
        ({"OFA_SOFTWARE_FAIL": f"cuInit:{NO_DEVICE}"}, "does nvidia-smi show one"),
        ({"OFA_SOFTWARE_DEVICES": ""}, "does nvidia-smi show one"),
        ({"OFA_CUDA_DEVICE": "7"}, "OFA_CUDA_DEVICE names no device"),
        ({"OFA_CUDA_DEVICE": "no such"}, "nvidia-smi -L"),
        ({"OFA_SOFTWARE_VERSION": "11000"}, "knows CUDA 11.0, at least 11.4 is needed"),
        ({"OFA_SOFTWARE_FAIL": f"cuMemAlloc_v2@2:{OUT_OF_MEMORY}"}, "close other programs"),
        ({"OFA_SOFTWARE_FAIL": f"cuMemHostAlloc:{OUT_OF_MEMORY}"}, "out of memory"),
        (
            {"OFA_SOFTWARE_FAIL": f"cuModuleLoadData@3:{NO_BINARY}"},
            "is sm_90, the bundle has sm_75, sm_80, sm_86, sm_89, sm_90",
        ),
        # Drivers that load code when it is first used complain only then.
        ({"OFA_SOFTWARE_FAIL": f"cuLaunchKernel@2:{NO_BINARY}"}, "toolchain.gpu_architectures"),
        (
            {
                "OFA_SOFTWARE_FAIL": f"cuModuleLoadData:{INVALID_IMAGE}",
                "OFA_SOFTWARE_VERSION": "12020",
            },
            "knows CUDA 12.2, the bundle is built with 13.0",
        ),
        (
            {
                "OFA_SOFTWARE_FAIL": f"cuModuleLoadData:{OLD_PTX}",
                "OFA_SOFTWARE_VERSION": "12020",
            },
            "driver is too old for this bundle",
        ),
        ({"OFA_SOFTWARE_FAIL": f"cuStreamSynchronize@2:{FAULT}"}, "device was lost"),
        # The driver was updated and the kernel's module was not; a service has not started yet.
        (
            {"OFA_SOFTWARE_FAIL": f"cuInit:{MISMATCH}"},
            "do not match, or are not ready; does nvidia-smi work? Otherwise reboot, or install",
        ),
        ({"OFA_SOFTWARE_FAIL": f"cuInit:{NOT_READY}"}, "fabricmanager must run (cuInit: 802"),
        (
            {"OFA_SOFTWARE_FAIL": f"cuDevicePrimaryCtxRetain:{UNAVAILABLE}"},
            "close other programs that nvidia-smi shows, or choose another device with OFA_CUDA_",
        ),
        (
            {"OFA_SOFTWARE_FAIL": f"cuLaunchKernel@2:{TOO_LARGE}"},
            "or compile for a smaller batch or resolution (cuLaunchKernel: 701, CUDA_",
        ),
        (
            {"OFA_SOFTWARE_FAIL": "cuGraphInstantiateWithFlags:1"},
            "driver failed (cuGraphInstantiate: 1, CUDA_ERROR_OF_THE_TEST); update NVIDIA's driver",
        ),
    ],
)
def test_failures_say_what_to_do(call, environment: dict[str, str], words: str) -> None:
    done = call(**environment)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_a_failed_start_gives_back_what_it_took(call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fail = f"cuModuleLoadData@3:{NO_BINARY}"
    assert call(OFA_SOFTWARE_FAIL=fail, OFA_SOFTWARE_LOG=str(log)).returncode == 4
    counts = calls_of(log)
    assert counts["cuMemFree_v2"] == counts["cuMemAlloc_v2"] == 2
    assert counts["cuModuleUnload"] == 2
    assert counts["cuDevicePrimaryCtxRelease_v2"] == counts["cuMemFreeHost"] == 1


@pytest.mark.parametrize("wanted", ["1", "ada"])
def test_a_device_is_chosen_by_number_or_name(call, wanted: str) -> None:
    devices = {"OFA_SOFTWARE_DEVICES": "NVIDIA T4,NVIDIA L4 (Ada)", "OFA_CUDA_DEVICE": wanted}
    fail = f"cuModuleLoadData:{NO_BINARY}"
    assert "L4 (Ada) is sm_90" in call(OFA_SOFTWARE_FAIL=fail, **devices).stderr
    assert call(**devices).returncode == 0


def test_a_thousand_runs_leak_nothing(library: NativeLibrary) -> None:
    check_memory(library)
