"""The arrays that some candidates read, in one file for a program without NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where an array may begin, in bytes: at a multiple of its values' size.
_ALIGNMENT = 8


class DataFile:
    """Each array once, in the order they were first asked for."""

    def __init__(self) -> None:
        self._archives: dict[Path, dict[str, NDArray[Any]]] = {}
        self._order: dict[tuple[Path, str], int] = {}

    def num_bytes(self, archive: Path, name: str) -> int:
        """Return how long an array is."""
        return self._read(archive)[name].nbytes

    def dtype(self, archive: Path, name: str) -> str:
        """Return the name of an array's type."""
        return self._read(archive)[name].dtype.name

    def index(self, archive: Path, name: str) -> int:
        """Return an array's number."""
        return self._order.setdefault((archive, name), len(self._order))

    def entries(self) -> list[tuple[int, int]]:
        """Return offset and size of every array, in bytes."""
        found, offset = [], 0
        for archive, name in self._order:
            found.append((offset, self.num_bytes(archive, name)))
            offset += padded(found[-1][1])
        return found

    def write(self, path: Path) -> None:
        """Write all values, little-endian."""
        with path.open("wb") as file:
            for archive, name in self._order:
                array = self._read(archive)[name]
                data = array.astype(array.dtype.newbyteorder("<")).tobytes()
                file.write(data.ljust(padded(len(data)), b"\0"))

    def _read(self, archive: Path) -> dict[str, NDArray[Any]]:
        if archive not in self._archives:
            with np.load(archive, allow_pickle=False) as stored:
                self._archives[archive] = {name: stored[name] for name in stored.files}
        return self._archives[archive]


def padded(num_bytes: int) -> int:
    """Return how much room an array takes, so that the next one is aligned."""
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
