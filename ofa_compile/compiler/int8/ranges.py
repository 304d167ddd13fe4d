"""What the values of a network look like on calibration images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Graph
from ofa_compile.compiler.int8.evaluate import evaluate
from ofa_compile.compiler.int8.scheme import Doubles
from ofa_compile.errors import DataError

# Images computed at once: bounds the memory that maps of large inputs take.
_IMAGES_AT_ONCE = 16


@dataclass
class Range:
    """Extremes and mean square of each channel of a value, all of shape (C,)."""

    low: Doubles
    high: Doubles
    energy: Doubles


def observe_ranges(graph: Graph, images: NDArray[np.float32]) -> dict[int, Range]:
    """Compute the network on images and note the range of every value, the input included.

    Parameters
    ----------
    graph
        After the passes, still in float.
    images
        Normalised inputs of shape (n, C, H, W).

    Raises
    ------
    DataError
        If there are no images, they have another shape, or a value is not finite.
    """
    if len(images) == 0 or images.shape[1:] != graph.input.shape[1:]:
        msg = f"int8 needs calibration images of shape {graph.input.shape[1:]}, got {images.shape}"
        raise DataError(msg)
    total: dict[int, Range] = {}

    def observe(value: int, data: NDArray[Any]) -> None:
        rows = data.reshape(-1, data.shape[-1])
        low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            msg = "a value of the network is not finite on the calibration images"
            raise DataError(msg, hint="check the weights and the images")
        energy = np.einsum("rc,rc->c", rows, rows, dtype=np.float64) / (rows.size / len(low))
        share = len(data) / len(images)
        known = total.get(value)
        if known is None:
            total[value] = Range(low, high, energy * share)
        else:
            known.low, known.high = np.minimum(known.low, low), np.maximum(known.high, high)
            known.energy += energy * share

    for first in range(0, len(images), _IMAGES_AT_ONCE):
        batch = images[first : first + _IMAGES_AT_ONCE]
        observe(graph.input.id, batch.transpose(0, 2, 3, 1))
        evaluate(graph, batch, observe)
    return total
