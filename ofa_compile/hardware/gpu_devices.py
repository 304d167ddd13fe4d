"""Which GPUs this machine has that can run code for a target."""

from __future__ import annotations

from ofa_compile.hardware.cuda_devices import check_cuda
from ofa_compile.hardware.gpu_device import GpuDevice
from ofa_compile.hardware.vulkan_devices import check_vulkan

_CHECKS = {"vulkan": check_vulkan, "cuda": check_cuda}


def check_gpu(kind: str) -> list[GpuDevice]:
    """Return the devices of a kind ("vulkan", "cuda") that can run a bundle; none for CPUs.

    Raises
    ------
    DeviceUnavailableError
        If the kind needs a device and there is none, or the environment names another.
    """
    return _CHECKS[kind]() if kind in _CHECKS else []
