"""Bytes for real numbers: scale and zero point per channel of a value, scale per row of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]

LEVELS = 255
# Storing as int8 what other cores store as uint8 moves every byte by this.
SIGNED_SHIFT = 128
MAX_WEIGHT = 127
# A channel that never moves has no scale of its own; any does that keeps the others' numbers sane.
_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True)
class Quantisation:
    """`real = scale[c] * (byte - zero_point[c])`, channels last.

    Attributes
    ----------
    scale
        Step of each channel, of shape (C,).
    zero_point
        The byte that means zero, of each channel, of shape (C,).
    """

    scale: Doubles
    zero_point: NDArray[np.int32]

    def to_bytes(self, x: NDArray[Any]) -> Bytes:
        """Round to the nearest byte, ties to even."""
        steps = x.astype(np.float64) * (1.0 / self.scale) + self.zero_point
        return np.clip(np.rint(steps), 0, LEVELS).astype(np.uint8)

    def to_floats(self, data: Bytes) -> Floats:
        """Return what the bytes mean."""
        return ((data.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


def quantisation_of(low: NDArray[Any], high: NDArray[Any]) -> Quantisation:
    """Cover the range of each channel, zero included: padding and ReLU need it exact."""
    low = np.minimum(low.astype(np.float64), 0.0)
    high = np.maximum(high.astype(np.float64), 0.0)
    scale = (high - low) / LEVELS
    scale = np.maximum(scale, max(float(scale.max()) * _SMALLEST_SHARE, 1e-30))
    zero_point = np.clip(np.rint(-low / scale), 0, LEVELS).astype(np.int32)
    return Quantisation(scale, zero_point)


@dataclass(frozen=True)
class Int8Weight:
    """`real = scale[n] * values[n, ...]`, one scale per output channel."""

    values: NDArray[np.int8]
    scale: Doubles


def quantise_weight(weight: NDArray[Any]) -> Int8Weight:
    """Round a weight of shape (out_channels, ...) to int8, symmetrically."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    scale = np.where(largest > 0, largest, 1.0) / MAX_WEIGHT
    values = np.rint(rows / scale[:, None]).astype(np.int8)
    return Int8Weight(values.reshape(weight.shape), scale)
