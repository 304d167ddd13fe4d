"""Limits on a subnet, and how far an architecture is from meeting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ConfigError

Figures = Mapping[str, NDArray[np.float64]]

LATENCY = "latency_ms"
# Limit on the left, the figure that it bounds on the right.
_BOUNDED_FIGURES = {
    "max_latency_ms": LATENCY,
    "max_macs": "macs",
    "max_parameters": "num_parameters",
    "max_size_bytes": "size_bytes",
    "max_activation_bytes": "activation_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper limits in any combination; None means unlimited.

    The limit on latency is one number, or one for each of several targets.
    """

    max_latency_ms: float | Mapping[str, float] | None = None
    max_macs: float | None = None
    max_parameters: float | None = None
    max_size_bytes: float | None = None
    max_activation_bytes: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            for number in value.values() if isinstance(value, Mapping) else (value,):
                if number is not None and not number > 0:
                    msg = f"{item.name} must be a positive number, got {number!r}"
                    raise ConfigError(msg, hint="leave the option out for no limit")

    @property
    def active(self) -> dict[str, float]:
        """The limits that are set, by the name of the figure that they bound."""
        bounds = {figure: getattr(self, limit) for limit, figure in _BOUNDED_FIGURES.items()}
        latency = bounds[LATENCY]
        if isinstance(latency, Mapping):
            del bounds[LATENCY]
            bounds = {**{latency_figure(name): ms for name, ms in latency.items()}, **bounds}
        return {figure: float(bound) for figure, bound in bounds.items() if bound is not None}

    def violation(self, figures: Figures) -> NDArray[np.float64]:
        """Return by how much all limits together are exceeded, of shape (n,); 0 is feasible.

        Each excess counts as a fraction of its limit, so that milliseconds and bytes add up.
        """
        total = np.zeros(len(next(iter(figures.values()))))
        for figure, bound in self.active.items():
            total += np.maximum(figures[figure] / bound - 1.0, 0.0)
        return total


def latency_figure(target: str) -> str:
    """Name the latency on a target; the empty name stands for the only one."""
    return f"{LATENCY}@{target}" if target else LATENCY


def option_name(figure: str) -> str:
    """Return the name of the limit on a figure, as the user knows it."""
    kind, _, target = figure.partition("@")
    name = next(limit for limit, bounded in _BOUNDED_FIGURES.items() if bounded == kind)
    return f"{name} for {target}" if target else name


def format_figure(figure: str, value: float) -> str:
    """Write a figure with its unit, for messages."""
    if figure.startswith(LATENCY):
        return f"{value:.4g} ms"
    if figure.endswith("_bytes"):
        return f"{value:,.0f} bytes"
    return f"{value:,.0f} {figure.removeprefix('num_')}"
