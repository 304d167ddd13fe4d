"""What is said of drivers and GPUs that are not there or not right; `tests/cuda` has a driver."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware import cuda_devices
from ofa_compile.hardware.cuda_devices import check_cuda, list_cuda_devices
from ofa_compile.hardware.gpu_device import GpuDevice

# As when the driver was updated and the kernel's part was not; and after a suspend.
NO_DEVICE, MISMATCH, UNKNOWN = 100, 803, 999


class Driver:
    """A driver whose first call gives a number, and that knows a version of CUDA."""

    def __init__(self, result: int, version: int = 12040) -> None:
        self._result, self._version = result, version

    def cuInit(self, _: int) -> int:
        return self._result

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = 0
        return 0


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    list_cuda_devices.cache_clear()
    yield
    list_cuda_devices.cache_clear()


@pytest.mark.parametrize(
    ("result", "words", "hint"),
    [
        (NO_DEVICE, "the CUDA driver finds no device", "CUDA_VISIBLE_DEVICES"),
        (MISMATCH, r"do not match.*803, CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "does nvidia-smi work"),
        (UNKNOWN, r"cannot start here.*999, CUDA_ERROR_UNKNOWN\)", "modprobe nvidia_uvm"),
        (4711, r"cannot start here.*\(the driver says 4711\)", "otherwise reboot"),
    ],
)
def test_a_driver_that_is_no_use(
    monkeypatch: pytest.MonkeyPatch, result: int, words: str, hint: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(result))
    with pytest.raises(DeviceUnavailableError, match=words) as got:
        check_cuda()
    assert got.value.exit_code == 4
    assert hint in str(got.value.hint)


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(0, 11030))
    with pytest.raises(DeviceUnavailableError, match=r"it knows CUDA 11\.3, at least CUDA 11\.4"):
        list_cuda_devices()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(0, 11040))
    assert list_cuda_devices() == ()


def test_another_device_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = GpuDevice(number=0, name="NVIDIA T4", kind="sm_75", version="CUDA 12.4")
    monkeypatch.setattr(cuda_devices, "list_cuda_devices", lambda: (device,))
    monkeypatch.setenv("OFA_CUDA_DEVICE", "H100")
    with pytest.raises(DeviceUnavailableError, match=r"'H100'; this machine has 0: NVIDIA T4"):
        check_cuda()


@pytest.mark.parametrize("command", ["compile", "measure", "tune"])
def test_commands_without_a_driver(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    monkeypatch.setattr(cuda_devices, "_DRIVER", "libnothing.so.1")
    where = ["--output"] if command == "compile" else ["--workspace"]
    arguments = [*([] if command == "compile" else [command]), "--target", "cuda"]
    assert run_app([*arguments, *where, str(tmp_path)]) == 4
    said = capsys.readouterr().err
    assert "no CUDA driver here: libcuda.so.1 cannot be loaded" in said
    assert "sudo apt-get install nvidia-driver" in said
    assert ("--no-verify" in said) == (command == "compile")
