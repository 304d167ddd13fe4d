"""What this machine is: processor, vector extensions, caches (Linux, standard library only)."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")
_SYS_CPU = Path("/sys/devices/system/cpu/cpu0")

_ARCH_ALIASES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

# The flags that set a level of the x86-64 psABI apart from the one below.
_X86_LEVELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")),
    ("x86-64-v2", ("cx16", "popcnt", "sse4_1", "sse4_2", "ssse3")),
)
_DEFAULT_FREQUENCY_HZ = 2.0e9
_ZEN4_FAMILY = 25


@functools.cache
def host_arch() -> str:
    """Return this machine's architecture as LLVM spells it: "x86_64", "aarch64", ..."""
    machine = platform.machine().lower()
    return _ARCH_ALIASES.get(machine, machine)


@functools.cache
def read_cpuinfo() -> dict[str, str]:
    """Return the first processor's fields of /proc/cpuinfo (empty where there is none)."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return parse_cpuinfo(text)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """Parse the first processor block of a /proc/cpuinfo text."""
    block = text.split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_flags() -> frozenset[str]:
    """Return the CPU flags in /proc/cpuinfo's spelling ("avx2", "asimd", ...)."""
    info = read_cpuinfo()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def has_flags(required: tuple[str, ...]) -> bool:
    """Whether this processor has all `required` flags."""
    return cpu_flags().issuperset(required)


def x86_level(flags: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Return the highest x86-64 level the flags give, and the flags it stands for."""
    level, required = "x86-64", tuple[str, ...]()
    for name, needed in reversed(_X86_LEVELS):
        if not flags.issuperset(needed):
            break
        level, required = name, required + needed
    return level, required


def detect_tvm_target() -> dict[str, Any]:
    """Describe this machine to TVM."""
    target: dict[str, Any] = {"kind": "llvm", "mtriple": f"{host_arch()}-linux-gnu"}
    if host_arch() == "x86_64":
        target["mcpu"] = x86_level(cpu_flags())[0]
    else:
        target["mcpu"] = "generic"
        target["mattr"] = _arm_attributes(cpu_flags())
    target["num-cores"] = num_cores()
    return target


def _arm_attributes(flags: frozenset[str]) -> list[str]:
    """LLVM features for the flags of an arm64 core that float32 kernels can profit from."""
    names = {"asimd": "+neon", "asimddp": "+dotprod", "asimdhp": "+fullfp16"}
    return [attribute for flag, attribute in names.items() if flag in flags] or ["+neon"]


def detect_core() -> dict[str, Any]:
    """Return the fields of `CoreSpec` for this machine."""
    flags = cpu_flags()
    x86 = host_arch() == "x86_64"
    bits = 128
    if x86:
        bits = 512 if "avx512f" in flags else 256 if "avx2" in flags else 128
    return {
        "vector_bits": bits,
        "vector_registers": 32 if bits == 512 or not x86 else 16,
        "frequency_hz": _frequency_hz(),
        "fma_per_cycle": _fma_per_cycle(bits),
        "memory_bandwidth_gb_per_s": 10.0,
        "l1_bytes": _cache_bytes(1) or 32 * 1024,
        "l2_bytes": _cache_bytes(2) or 512 * 1024,
        "cores": num_cores(),
        "requires": x86_level(flags)[1] if x86 else (),
        "model": model_name(),
    }


def num_cores() -> int:
    """Cores of the machine (not of this process: a pinned run must see the same target)."""
    return os.cpu_count() or 1


def model_name() -> str:
    """Name of the processor with what tells models of that name apart."""
    info = read_cpuinfo()
    if "model name" in info:
        family = f"family {info.get('cpu family', '?')} model {info.get('model', '?')}"
        return f"{info['model name']} ({family})"
    part = info.get("CPU part")
    return f"CPU part {part}" if part else platform.machine()


def _fma_per_cycle(bits: int) -> float:
    info = read_cpuinfo()
    if bits == 512 and info.get("vendor_id") == "AuthenticAMD":
        # Zen 4 starts one 512-bit FMA a cycle (two passes through 256-bit units); Zen 5 two.
        return 1.0 if int(info.get("cpu family", "0")) <= _ZEN4_FAMILY else 2.0
    return 2.0


def _frequency_hz() -> float:
    """Highest clock known from a source that does not move from second to second."""
    try:
        return float((_SYS_CPU / "cpufreq/cpuinfo_max_freq").read_text()) * 1e3
    except (OSError, ValueError):
        pass
    # x86: BogoMIPS is twice the constant time-stamp clock. Rounded, for it is calibrated at boot.
    bogomips = read_cpuinfo().get("bogomips", "")
    if host_arch() == "x86_64" and re.fullmatch(r"[\d.]+", bogomips):
        return round(float(bogomips) / 200) * 1e8
    return _DEFAULT_FREQUENCY_HZ


def _cache_bytes(level: int) -> int | None:
    """Size of one core's data or unified cache of a level."""
    for index in sorted((_SYS_CPU / "cache").glob("index*")):
        try:
            if int((index / "level").read_text()) != level:
                continue
            if (index / "type").read_text().strip() == "Instruction":
                continue
            size = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        match = re.fullmatch(r"(\d+)([KM]?)", size)
        if match:
            return int(match[1]) * {"": 1, "K": 1024, "M": 1024**2}[match[2]]
    return None
