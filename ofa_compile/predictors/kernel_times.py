"""Measured times of the kernels of every block: what tuning knows, as a latency feature.

The sum of its kernels' times is close to a network's latency, and follows what no analytic feature
knows: how well each shape suits the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArchitectureError
from ofa_compile.predictors.slot_tables import Indices, slot_rows, slots_of
from ofa_compile.space.search_space import SearchSpace


class KernelTimes:
    """Sums of kernel times by slot and combination of its genes (see `slot_tables`).

    Parameters
    ----------
    space
        The search space.
    ms
        Resolution -> for every slot, the milliseconds of each combination.
    """

    def __init__(self, space: SearchSpace, ms: Mapping[int, Sequence[Sequence[float]]]) -> None:
        self._slots = slots_of(space)
        self._resolutions = np.array(space.resolutions)
        self._ms = {int(size): [list(map(float, row)) for row in rows] for size, rows in ms.items()}
        self._tables = []
        for number, slot in enumerate(self._slots):
            table = np.full((len(space.resolutions), len(slot.combinations)), np.nan)
            for size, rows in self._ms.items():
                table[space.resolutions.index(size)] = rows[number]
            # The last row stands for an absent slot.
            self._tables.append(np.append(table.ravel(), 0.0))

    @property
    def resolutions(self) -> frozenset[int]:
        """The resolutions whose kernels are all known."""
        return frozenset(self._ms)

    def per_slot(self, indices: Indices) -> NDArray[np.float64]:
        """Return the milliseconds of every slot's kernels, of shape (n, num_slots).

        Raises
        ------
        ArchitectureError
            If a resolution's kernels are not known.
        """
        rows = slot_rows(self._slots, indices)
        found = np.stack(
            [table[row] for table, row in zip(self._tables, rows, strict=True)], axis=1
        )
        unknown = np.flatnonzero(np.isnan(found).any(axis=1))
        if len(unknown):
            size = self._resolutions[indices[unknown[0], 0]]
            msg = f"the kernels at resolution {size} were not tuned when this predictor was fitted"
            raise ArchitectureError(msg, hint="tune that resolution and fit again")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as JSON values."""
        return {str(size): rows for size, rows in sorted(self._ms.items())}

    @classmethod
    def from_dict(cls, space: SearchSpace, document: Mapping[str, Any]) -> KernelTimes:
        """Read tables back; a TypeError or ValueError says that they are none of this space."""
        return cls(space, {int(size): rows for size, rows in document.items()})
