"""What a device says of itself, or was measured to do, beside what its target's file says."""

from __future__ import annotations

import dataclasses
import re

from ofa_compile.hardware.target_spec import CoreSpec

# Measured figures of one device move by some percent; a file that is further off is wrong.
_TOLERANCE = 0.25
_FEATURE_FIELDS = ("Features", "flags", "isa")
_CACHE_KEYS = ("l1_bytes", "l2_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    """Facts about a device; None and empty where it does not tell.

    Attributes
    ----------
    model
        Board or processor.
    cores
        Cores that are running.
    l1_bytes, l2_bytes
        Caches of the first core that hold data.
    features
        CPU flags, as /proc/cpuinfo spells them.
    clock_hz, peak_flops, bandwidth_bytes_per_s
        Measured on one core: its clock under load, its rate of vector multiply-adds (two
        operations each), and how fast it reads main memory.
    """

    model: str = ""
    cores: int | None = None
    l1_bytes: int | None = None
    l2_bytes: int | None = None
    features: frozenset[str] = frozenset()
    clock_hz: float | None = None
    peak_flops: float | None = None
    bandwidth_bytes_per_s: float | None = None

    @classmethod
    def parse(cls, text: str) -> DeviceFacts:
        """Read the lines of NAME=VALUE that the probe prints; what is no number is left out."""
        pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        words = next((pairs[name] for name in _FEATURE_FIELDS if pairs.get(name)), "")
        return cls(
            model=pairs.get("board") or pairs.get("model name") or pairs.get("machine", ""),
            cores=_whole(pairs.get("cores")),
            l1_bytes=_whole(pairs.get("l1_bytes")),
            l2_bytes=_whole(pairs.get("l2_bytes")),
            features=frozenset(words.split()),
            clock_hz=_rate(pairs.get("clock_hz")),
            peak_flops=_rate(pairs.get("peak_flops")),
            bandwidth_bytes_per_s=_rate(pairs.get("bandwidth_bytes_per_s")),
        )

    def core_values(self, core: CoreSpec) -> dict[str, int | float]:
        """Return what the facts say about fields of `core`, which gives the vector's width."""
        values: dict[str, int | float | None] = {
            "frequency_hz": None if self.clock_hz is None else round(self.clock_hz, -7),
            "fma_per_cycle": None,
            "memory_bandwidth_gb_per_s": None,
            "l1_bytes": self.l1_bytes,
            "l2_bytes": self.l2_bytes,
            "cores": self.cores,
        }
        if self.peak_flops is not None and self.clock_hz is not None:
            flops_per_cycle = 2 * max(1, core.vector_bits // 32)
            values["fma_per_cycle"] = round(self.peak_flops / self.clock_hz / flops_per_cycle, 2)
        if self.bandwidth_bytes_per_s is not None:
            values["memory_bandwidth_gb_per_s"] = round(self.bandwidth_bytes_per_s * 1e-9, 2)
        return {name: value for name, value in values.items() if value}

    def missing(self, core: CoreSpec) -> tuple[str, ...]:
        """Return the flags that `core` requires and the device lacks, where it names any flags."""
        if not self.features:
            return ()
        return tuple(flag for flag in core.requires if flag not in self.features)


def differences(core: CoreSpec, facts: DeviceFacts) -> list[str]:
    """Say where a target's facts are not those of the device."""
    found = []
    for name, value in facts.core_values(core).items():
        stated = getattr(core, name)
        # Whole numbers are read, not measured: they are the same, or wrong.
        allowed = 0.0 if isinstance(value, int) else _TOLERANCE * max(stated, value)
        if abs(stated - value) > allowed:
            found.append(f"core.{name} is {stated:g}, the device has {value:g}")
    return found


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,12}", text) else None


def _rate(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,18}", text) else None
