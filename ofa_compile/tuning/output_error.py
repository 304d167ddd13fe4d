"""How far an output may be from what is right, by the type of its values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCES = {"float32": 2e-5, "tf32": 3e-3, "float16": 1e-2, "uint8": 1e-3, "int8": 1e-3}
"""Largest error allowed, relative to the largest expected value: sums of many products are rounded
at every step, in tf32 the factors too. Of bytes, one step is more than that; see `output_error`."""

# Values between two bytes: kernels round once where numpy rounds twice.
SHARE_BETWEEN = 1e-3
LEVELS = 255


def output_error(result: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return an output's largest error, relative to the largest value that is expected.

    A byte may be one step off in one of a thousand places; only what goes beyond counts.
    """
    off = np.abs(result.astype(np.float64) - expected.astype(np.float64))
    if expected.dtype.itemsize > 1:
        return float(off.max()) / max(1.0, float(np.abs(expected).max()))
    is_rounding = off.max() <= 1 and np.count_nonzero(off) <= 1 + SHARE_BETWEEN * off.size
    return 0.0 if is_rounding else float(off.max()) / LEVELS


def difference(error: float, dtype: str) -> str | None:
    """Say that an output's error is too large for values of a type, or tf32; None if it is not."""
    allowed = TOLERANCES[dtype]
    return None if error <= allowed else describe_error(error, allowed)  # the latter for NaN


def describe_error(error: float, allowed: float) -> str:
    """Say what is wrong with an output."""
    return f"differs by {error:.1e} of the largest value; {allowed:.0e} is allowed"
