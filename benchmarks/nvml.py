"""Energy of an NVIDIA GPU, read through NVML where the driver has it."""

from __future__ import annotations

import ctypes


class EnergyMeter:
    """The energy counter of the first GPU; None is read where there is none."""

    def __init__(self) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._device = ctypes.c_void_p()
        try:
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return
        if nvml.nvmlInit_v2() == 0:
            found = nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self._device))
            self._nvml = nvml if found == 0 else None

    def joules(self) -> float | None:
        """Return what the GPU has used since the driver was loaded."""
        if self._nvml is None:
            return None
        millijoules = ctypes.c_ulonglong()
        read = self._nvml.nvmlDeviceGetTotalEnergyConsumption
        code = read(self._device, ctypes.byref(millijoules))
        return millijoules.value / 1e3 if code == 0 else None
