"""Limits on a subnet, and how far an architecture is from meeting them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ConfigError

Figures = Mapping[str, NDArray[np.float64]]

# Limit on the left, the figure that it bounds on the right.
_BOUNDED_FIGURES = {
    "max_latency_ms": "latency_ms",
    "max_macs": "macs",
    "max_size_bytes": "size_bytes",
    "max_activation_bytes": "activation_bytes",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Upper limits in any combination; None means unlimited."""

    max_latency_ms: float | None = None
    max_macs: float | None = None
    max_size_bytes: float | None = None
    max_activation_bytes: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value > 0:
                msg = f"{item.name} must be a positive number, got {value!r}"
                raise ConfigError(msg, hint="leave the option out for no limit")

    @property
    def active(self) -> dict[str, float]:
        """The limits that are set, by the name of the figure that they bound."""
        bounds = {figure: getattr(self, limit) for limit, figure in _BOUNDED_FIGURES.items()}
        return {figure: float(bound) for figure, bound in bounds.items() if bound is not None}

    def violation(self, figures: Figures) -> NDArray[np.float64]:
        """Return by how much all limits together are exceeded, of shape (n,); 0 is feasible.

        Each excess counts as a fraction of its limit, so that milliseconds and bytes add up.
        """
        total = np.zeros(len(next(iter(figures.values()))))
        for figure, bound in self.active.items():
            total += np.maximum(figures[figure] / bound - 1.0, 0.0)
        return total


def option_name(figure: str) -> str:
    """Return the name of the limit on a figure, as the user knows it."""
    return next(limit for limit, bounded in _BOUNDED_FIGURES.items() if bounded == figure)


def format_figure(figure: str, value: float) -> str:
    """Write a figure with its unit, for messages."""
    if figure.endswith("_ms"):
        return f"{value:.4g} ms"
    if figure.endswith("_bytes"):
        return f"{value:,.0f} bytes"
    return f"{value:,.0f} {figure}" if figure == "macs" else f"{value:,.4g}"
