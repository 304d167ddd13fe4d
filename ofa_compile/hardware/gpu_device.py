"""A GPU as its driver describes it, and the choice of one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from ofa_compile.errors import DeviceUnavailableError


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuDevice:
    """One device.

    Attributes
    ----------
    number
        As the variable that chooses a device takes it.
    name, kind
        What it is called, and what sort of device it is: "discrete GPU", "software on the CPU",
        "sm_90".
    version
        What its driver knows, such as "Vulkan 1.3".
    can_run
        Whether that is enough for a bundle.
    """

    number: int
    name: str
    kind: str
    version: str
    can_run: bool = True

    def __str__(self) -> str:
        return f"{self.number}: {self.name} ({self.kind}, {self.version})"


def wanted_devices(devices: Sequence[GpuDevice], variable: str) -> list[GpuDevice]:
    """Return the devices that a variable of the environment allows: by number or part of a name.

    Raises
    ------
    DeviceUnavailableError
        If it allows none of them.
    """
    wanted = os.environ.get(variable, "")
    chosen = [device for device in devices if _is_wanted(device, wanted)]
    if not chosen:
        known = "; ".join(map(str, devices))
        msg = f"{variable} is '{wanted}'; this machine has {known}"
        raise DeviceUnavailableError(msg, hint="give a number or a part of a name")
    return chosen


def _is_wanted(device: GpuDevice, wanted: str) -> bool:
    """Tell, as the run time does, whether a number or a part of a name means a device."""
    if wanted.isdigit():
        return int(wanted) == device.number
    return wanted.lower() in device.name.lower()
