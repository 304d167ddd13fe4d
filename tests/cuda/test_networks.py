"""What the launcher asks of the driver, and what it says when that fails."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from drivers import Driver
from kit import Kit, Network

from ofa_compile.hardware.cuda_errors import cuda_errors

# A failure in a call, the call's name, and what the message must say.
OUT_OF_MEMORY, INVALID_IMAGE, NO_BINARY, OLD_PTX, FAULT = 2, 200, 209, 222, 700
UNAVAILABLE, TOO_LARGE, NOT_READY, UNKNOWN = 46, 701, 600, 999

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def network(kit: Kit) -> Network:
    """A small MobileNet."""
    return kit.network()


@pytest.fixture
def call(network: Network, driver: Driver) -> Call:
    """Run the executable once, with something set in its environment."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(network.executable), *(arguments or ("--benchmark", "1", "--warmup", "0"))],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=driver.environment(**environment),
        )

    return run


def calls_of(log: Path) -> Counter[str]:
    return Counter(log.read_text().split())


def test_a_run_is_one_graph_and_one_wait(network: Network, call: Call, tmp_path: Path) -> None:
    counts = []
    for repeats in (1, 11):
        log = tmp_path / f"{repeats}.log"
        arguments = ("--benchmark", str(repeats), "--warmup", "0")
        assert call(*arguments, OFA_WATCH_LOG=str(log)).returncode == 0
        counts.append(calls_of(log))
    once, often = counts
    # It is asked at least once a wait whether it is done: of the trial, and of every run.
    assert once.pop("cuStreamQuery") >= 2
    assert often.pop("cuStreamQuery") >= 12
    turns = dict.fromkeys(("cuGraphLaunch", "cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"), 10)
    turns["cuThreadExchangeStreamCaptureMode"] = 20
    assert {name: often[name] - once[name] for name in often if often[name] != once[name]} == turns
    # Memory once; the weights' and the input's way up; every kernel tried once, and captured once.
    assert once["cuMemAlloc_v2"] == once["cuMemFree_v2"] == 2
    assert once["cuMemcpyHtoDAsync_v2"] == 2
    assert once["cuLaunchKernel"] == 2 * len(network.steps)
    assert once["cuStreamBeginCapture_v2"] == once["cuGraphInstantiateWithFlags"] == 1
    assert once["cuModuleLoadData"] == len(set(network.steps))


def test_all_is_given_back(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call(OFA_WATCH_LOG=str(log)).returncode == 0
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
        ({"OFA_CUDA_DEVICE": "97"}, "OFA_CUDA_DEVICE names no device"),
        ({"OFA_CUDA_DEVICE": "no such"}, "nvidia-smi -L"),
        ({"OFA_WATCH_FAIL": f"cuMemAlloc_v2@2:{OUT_OF_MEMORY}"}, "close other programs"),
        ({"OFA_WATCH_FAIL": f"cuMemHostAlloc:{OUT_OF_MEMORY}"}, "out of memory"),
        (
            {"OFA_WATCH_FAIL": f"cuModuleLoadData@3:{NO_BINARY}"},
            r"is sm_\d+, the bundle has (sm_\d+(, )?)+\)",
        ),
        # Drivers that load code when it is first used complain only then.
        ({"OFA_WATCH_FAIL": f"cuLaunchKernel@2:{NO_BINARY}"}, "toolchain.gpu_architectures"),
        ({"OFA_WATCH_FAIL": f"cuStreamQuery@3:{FAULT}"}, "device forbids; start this program anew"),
        (
            {"OFA_WATCH_FAIL": f"cuDevicePrimaryCtxRetain:{UNAVAILABLE}"},
            "close other programs that nvidia-smi shows, or choose another device with OFA_CUDA_",
        ),
        (
            {"OFA_WATCH_FAIL": f"cuLaunchKernel@2:{TOO_LARGE}"},
            r"or compile for a smaller batch or resolution \(cuLaunchKernel: 701, CUDA_",
        ),
        (
            {"OFA_WATCH_FAIL": "cuGraphInstantiateWithFlags:1"},
            r"driver failed \(cuGraphInstantiate: 1, CUDA_ERROR_INVALID_VALUE\); update NVIDIA's",
        ),
    ],
)
def test_failures_say_what_to_do(call: Call, environment: dict[str, str], words: str) -> None:
    done = call(**environment)
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: ")
    assert re.search(words, done.stderr), done.stderr


@pytest.mark.usefixtures("software")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"LD_LIBRARY_PATH": "/nowhere"},
            "libcuda.so.1 cannot be loaded, or is an empty stub",
        ),
        ({"OFA_SOFTWARE_DEVICES": ""}, "does nvidia-smi show one, may this user open /dev/nvidia*"),
        ({"OFA_SOFTWARE_VERSION": "11000"}, "knows CUDA 11.0, at least 11.4 is needed"),
        (
            {
                "OFA_WATCH_FAIL": f"cuModuleLoadData:{INVALID_IMAGE}",
                "OFA_SOFTWARE_VERSION": "12020",
            },
            "knows CUDA 12.2, the bundle is built with 13.0",
        ),
        (
            {"OFA_WATCH_FAIL": f"cuModuleLoadData:{OLD_PTX}", "OFA_SOFTWARE_VERSION": "12020"},
            "driver is too old for this bundle",
        ),
    ],
)
def test_drivers_that_are_not_what_is_needed(
    call: Call, environment: dict[str, str], words: str
) -> None:
    done = call(**environment)
    assert done.returncode == 4, done.stderr
    assert words in done.stderr


@pytest.mark.parametrize("place", ["cuInit", "cuGraphLaunch"])
def test_every_result_has_its_advice(call: Call, place: str) -> None:
    known = cuda_errors()
    for result, (name, kind) in known.results.items():
        done = call(OFA_WATCH_FAIL=f"{place}:{result}")
        assert done.returncode == 4, done.stderr
        if place == "cuInit" and kind == "GPU_DEVICE_LOST":
            kind = "GPU_NOT_STARTED"
        what, advice = known.texts[kind]
        # Of these the call says nothing more.
        bare = ("GPU_NO_DRIVER", "GPU_NO_DEVICE")
        said = "" if kind in bare else f" ({place}: {result}, CUDA_ERROR_{name})"
        assert done.stderr.strip().endswith(f"{what}; {advice}{said}"), done.stderr


def test_a_start_that_fails_for_no_reason_is_no_lost_device(call: Call) -> None:
    said = call(OFA_WATCH_FAIL=f"cuInit:{UNKNOWN}").stderr
    assert "sudo modprobe -r nvidia_uvm" in said
    assert "(cuInit: 999, CUDA_ERROR_UNKNOWN)" in said
    assert "lost" not in said
    assert "device was lost" in call(OFA_WATCH_FAIL=f"cuGraphLaunch:{UNKNOWN}").stderr


def test_a_device_that_says_nothing_is_left_alone(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    silence = {"OFA_WATCH_FAIL": f"cuStreamQuery:{NOT_READY}", "OFA_GPU_TIMEOUT_S": "0.2"}
    done = call(OFA_WATCH_LOG=str(log), **silence)
    assert done.returncode == 4
    assert "the CUDA device does not answer; end this program" in done.stderr
    assert "(no answer for 0.2 s)" in done.stderr
    # Such calls wait for the device.
    assert not {"cuMemFree_v2", "cuModuleUnload"} & set(calls_of(log))


def test_a_device_that_is_busy_is_waited_for(call: Call) -> None:
    assert call(OFA_WATCH_FAIL=f"cuStreamQuery@3:{NOT_READY}").returncode == 0


def test_a_failed_start_gives_back_what_it_took(call: Call, tmp_path: Path) -> None:
    log = tmp_path / "log"
    fail = f"cuModuleLoadData@3:{NO_BINARY}"
    assert call(OFA_WATCH_FAIL=fail, OFA_WATCH_LOG=str(log)).returncode == 4
    counts = calls_of(log)
    assert counts["cuMemFree_v2"] == counts["cuMemAlloc_v2"] == 2
    assert counts["cuModuleUnload"] == 2
    assert counts["cuDevicePrimaryCtxRelease_v2"] == counts["cuMemFreeHost"] == 1


@pytest.mark.usefixtures("software")
@pytest.mark.parametrize("wanted", ["1", "ada"])
def test_a_device_is_chosen_by_number_or_name(call: Call, wanted: str) -> None:
    devices = {"OFA_SOFTWARE_DEVICES": "NVIDIA T4,NVIDIA L4 (Ada)", "OFA_CUDA_DEVICE": wanted}
    fail = f"cuModuleLoadData:{NO_BINARY}"
    assert "L4 (Ada) is sm_90" in call(OFA_WATCH_FAIL=fail, **devices).stderr
    assert call(**devices).returncode == 0
