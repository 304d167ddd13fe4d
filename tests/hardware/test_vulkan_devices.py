from __future__ import annotations

import pytest

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware import vulkan_devices
from ofa_compile.hardware.gpu_device import GpuDevice
from ofa_compile.hardware.vulkan_devices import check_vulkan, list_vulkan_devices


@pytest.fixture
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Fast GPU 9000", "llvmpipe")
    devices = tuple(
        GpuDevice(number=i, name=name, kind="discrete GPU", version="Vulkan 1.3", can_run=True)
        for i, name in enumerate(names)
    )
    monkeypatch.setattr(vulkan_devices, "list_vulkan_devices", lambda: devices)


def test_no_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan_devices, "_LOADERS", ("libnothing.so.1",))
    list_vulkan_devices.cache_clear()
    with pytest.raises(DeviceUnavailableError, match=r"libnothing\.so\.1 cannot be loaded") as got:
        list_vulkan_devices()
    assert got.value.exit_code == 4
    assert "libvulkan1" in str(got.value.hint)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        def vkCreateInstance(self, *_: object) -> int:
            return -9

    monkeypatch.setattr(vulkan_devices, "_load", Loader)
    list_vulkan_devices.cache_clear()
    with pytest.raises(DeviceUnavailableError, match=r"no driver \(vkCreateInstance: -9\)") as got:
        check_vulkan()
    assert "mesa-vulkan-drivers" in str(got.value.hint)


@pytest.mark.parametrize(("wanted", "number"), [("1", 1), ("LLVM", 1), ("gpu", 0)])
@pytest.mark.usefixtures("two_devices")
def test_a_device_is_named(monkeypatch: pytest.MonkeyPatch, wanted: str, number: int) -> None:
    monkeypatch.setenv("OFA_VULKAN_DEVICE", wanted)
    assert [device.number for device in check_vulkan()] == [number]


@pytest.mark.usefixtures("two_devices")
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_VULKAN_DEVICE", "radeon")
    with pytest.raises(DeviceUnavailableError, match=r"'radeon'.*Fast GPU 9000"):
        check_vulkan()


def test_only_old_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    old = GpuDevice(number=0, name="old", kind="other", version="Vulkan 1.0", can_run=False)
    monkeypatch.setattr(vulkan_devices, "list_vulkan_devices", lambda: (old,))
    with pytest.raises(DeviceUnavailableError, match=r"version 1\.1"):
        check_vulkan()
