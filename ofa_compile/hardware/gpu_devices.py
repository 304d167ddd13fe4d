"""Which GPUs this machine has that can run code for a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ofa_compile.errors import DeviceUnavailableError

if TYPE_CHECKING:
    from ofa_compile.hardware.gpu_device import GpuDevice


def check_gpu(kind: str) -> list[GpuDevice]:
    """Return the devices of a kind ("vulkan", "cuda") that can run a bundle; none for CPUs.

    Raises
    ------
    DeviceUnavailableError
        If the kind needs a device and there is none, or the environment names another.
    """
    if kind == "vulkan":
        from ofa_compile.hardware.vulkan_devices import check_vulkan

        return check_vulkan()
    if kind == "cuda":
        from ofa_compile.hardware.cuda_devices import check_cuda

        return check_cuda()
    return []


def local_gpu_name(kind: str) -> str:
    """Say which GPU of this machine runs code for a kind of target; "none" where there is none."""
    try:
        return str(check_gpu(kind)[0])
    except DeviceUnavailableError:
        return "none"
