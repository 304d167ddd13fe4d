"""Which CUDA devices this machine has, asked of the driver itself."""

from __future__ import annotations

import ctypes
import functools

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.cuda_errors import cuda_errors
from ofa_compile.hardware.gpu_device import GpuDevice, wanted_devices

_DRIVER = "libcuda.so.1"
_COMPUTE_CAPABILITY = (75, 76)  # attributes: major, minor
_NO_DEVICE = 100


@functools.cache
def list_cuda_devices() -> tuple[GpuDevice, ...]:
    """Return every device that the driver finds.

    Raises
    ------
    DeviceUnavailableError
        If there is no driver, or it cannot start.
    """
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError as err:
        what, advice = cuda_errors().texts["GPU_NO_DRIVER"]
        raise DeviceUnavailableError(what, hint=advice) from err
    result = cuda.cuInit(0)
    if result == _NO_DEVICE:
        return ()
    version, count = ctypes.c_int(), ctypes.c_int()
    result = result or cuda.cuDriverGetVersion(ctypes.byref(version))
    result = result or cuda.cuDeviceGetCount(ctypes.byref(count))
    if result != 0:
        what, advice = cuda_errors().explain_start(result)
        raise DeviceUnavailableError(what, hint=advice)
    if version.value < cuda_errors().oldest_driver:
        what, advice = cuda_errors().texts["GPU_OLD_DRIVER"]
        msg = f"{what} (it knows {_cuda(version.value)}, at least "
        msg += f"{_cuda(cuda_errors().oldest_driver)} is needed)"
        raise DeviceUnavailableError(msg, hint=advice)
    known = _cuda(version.value)
    return tuple(_describe(cuda, number, known) for number in range(count.value))


def check_cuda() -> list[GpuDevice]:
    """Return the devices that can run a bundle; the launcher takes the first.

    Raises
    ------
    DeviceUnavailableError
        If there is none, or OFA_CUDA_DEVICE names another.
    """
    devices = list_cuda_devices()
    if not devices:
        what, advice = cuda_errors().texts["GPU_NO_DEVICE"]
        raise DeviceUnavailableError(what, hint=advice)
    return wanted_devices(devices, "OFA_CUDA_DEVICE")


def pci_bus_id(device: GpuDevice) -> str | None:
    """Return where a device is plugged in, as "0000:3b:00.0"; None if the driver does not say."""
    text = ctypes.create_string_buffer(32)
    code = ctypes.CDLL(_DRIVER).cuDeviceGetPCIBusId(text, len(text), device.number)
    return text.value.decode() if code == 0 else None


def _cuda(version: int) -> str:
    """Return a version of CUDA, which drivers count as 12040, as people read it."""
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


def _describe(cuda: ctypes.CDLL, number: int, version: str) -> GpuDevice:
    name, value = ctypes.create_string_buffer(256), ctypes.c_int()
    cuda.cuDeviceGetName(name, len(name), number)
    capability = ""
    for attribute in _COMPUTE_CAPABILITY:
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
        capability += str(value.value)
    return GpuDevice(
        number=number,
        name=name.value.decode(errors="replace"),
        kind=f"sm_{capability}",
        version=version,
    )
