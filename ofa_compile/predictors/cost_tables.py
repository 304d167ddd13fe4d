"""MACs, sizes and activation peaks of whole populations, by table look-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.slot_tables import Indices, SlotTables
from ofa_compile.space.cost import peak_bytes
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.search_space import SearchSpace

_MACS, _PARAMETERS, _SIZE, _PEAK = range(4)


@dataclass(frozen=True)
class Costs:
    """Costs of n architectures, each of shape (n,); equal to those of `space.cost`."""

    macs: NDArray[np.float64]
    num_parameters: NDArray[np.float64]
    size_bytes: NDArray[np.float64]
    activation_bytes: NDArray[np.float64]


class CostTables:
    """Computes costs of architectures of one space.

    Parameters
    ----------
    space
        The search space.
    num_classes
        Outputs of the classifier; the space's default if not given.
    """

    def __init__(self, space: SearchSpace, *, num_classes: int | None = None) -> None:
        self._sums = SlotTables(space, _sums_row, 3, num_classes=num_classes)
        self._peaks = SlotTables(space, _peak_row, 1, num_classes=num_classes)

    def costs(self, indices: Indices) -> Costs:
        """Return the costs of architectures given as choice indices, of shape (n, genes)."""
        sums = self._sums.total(indices)
        return Costs(
            macs=sums[:, _MACS],
            num_parameters=sums[:, _PARAMETERS],
            size_bytes=sums[:, _SIZE],
            activation_bytes=self._peaks.maximum(indices)[:, 0],
        )

    def figure(self, name: str, indices: Indices) -> NDArray[np.float64]:
        """Return one of the costs, by its name in `Costs`, of shape (n,)."""
        if name == "activation_bytes":
            return self._peaks.maximum(indices)[:, 0]
        column = {"macs": _MACS, "num_parameters": _PARAMETERS, "size_bytes": _SIZE}[name]
        return self._sums.total(indices)[:, column]


def _sums_row(layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
    """Return a slot's MACs, parameters and bytes of weights."""
    return np.array(
        [
            sum(layer.macs for layer in layers),
            sum(layer.parameters for layer in layers),
            sum(layer.weight_bytes for layer in layers),
        ],
        dtype=np.float64,
    )


def _peak_row(layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
    """Return a slot's activation peak."""
    peak = peak_bytes(layers)
    return np.array([peak], dtype=np.float64)
