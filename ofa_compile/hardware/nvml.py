"""Energy of an NVIDIA GPU, through the library that comes with its driver: nothing to install."""

from __future__ import annotations

import ctypes

_LIBRARY = "libnvidia-ml.so.1"

COVERS = "the whole GPU, idle power included, in runs one behind the other; not the host"
"""What a figure of energy covers, for whoever reads it."""


class EnergyMeter:
    """The energy counter of one GPU; None is read where there is none.

    Parameters
    ----------
    pci_bus_id
        Which GPU, as CUDA names its place; the first one if None. NVML counts GPUs otherwise than
        CUDA does.
    """

    def __init__(self, pci_bus_id: str | None = None) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._device = ctypes.c_void_p()
        try:
            nvml = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        if nvml.nvmlInit_v2() != 0:
            return
        device = ctypes.byref(self._device)
        if pci_bus_id is None:
            found = nvml.nvmlDeviceGetHandleByIndex_v2(0, device)
        else:
            found = nvml.nvmlDeviceGetHandleByPciBusId_v2(pci_bus_id.encode(), device)
        self._nvml = nvml if found == 0 else None

    def joules(self) -> float | None:
        """Return what the GPU has used since the driver was loaded."""
        if self._nvml is None:
            return None
        millijoules = ctypes.c_ulonglong()
        read = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        code = read(self._device, ctypes.byref(millijoules))
        return millijoules.value / 1e3 if code == 0 else None
