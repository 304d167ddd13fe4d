"""Facts about the machine and tools that a measurement should carry."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

_PACKAGES = ("ofa-compile", "apache-tvm", "apache-tvm-ffi", "torch", "onnx", "numpy")
_CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")


@functools.cache
def tool_versions() -> dict[str, str]:
    """Return the versions of the installed tools, importing none of them."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine_facts() -> dict[str, Any]:
    """Return what can be read now: system, load, and clock and temperature where visible."""
    facts: dict[str, Any] = {
        "system": platform.system(),
        "machine": platform.machine(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    frequency, temperature = _read_number(_CPU), _read_number(_THERMAL)
    if frequency is not None:
        facts["frequency_hz"] = frequency * 1e3
    if temperature is not None:
        facts["temperature_celsius"] = temperature / 1e3
    return facts


def _read_number(path: Path) -> float | None:
    """Return the number in a file, or None when it cannot be read."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
