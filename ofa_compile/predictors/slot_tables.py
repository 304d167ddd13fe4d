"""Figures of whole populations by table look-up.

The layers of one block depend on a few genes only: the resolution and the block's own choices, in
ResNets also the widths around it. So anything that is a sum (or a maximum) over blocks is computed
once for every combination of those genes, from `SearchSpace.layers`, and then gathered for any
number of architectures at once. Which genes a block depends on is found by varying them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.search_space import ABSENT, SearchSpace

Indices = NDArray[np.int64]
RowFunction = Callable[[Sequence[LayerSpec]], NDArray[np.float64]]
SlotKey = tuple[int, int]

_NUM_PROBES = 2


@dataclass(frozen=True)
class Slot:
    """A place where a block can be, or a fixed part of the network (stem, head).

    Attributes
    ----------
    key
        (stage, block) of its layers.
    genes
        Columns of the genes that its layers depend on, without the resolution.
    combinations
        Every combination of their choice indices, of shape (num_combinations, len(genes)).
    radices
        Multipliers that turn choice indices into the number of a combination.
    depth_column
        The block gene that is `ABSENT` exactly when the slot is; None if it never is.
    """

    key: SlotKey
    genes: tuple[int, ...]
    combinations: Indices
    radices: Indices
    depth_column: int | None


@lru_cache(maxsize=16)
def slots_of(space: SearchSpace) -> tuple[Slot, ...]:
    """Return the slots of a space in execution order, with the genes that each depends on."""
    influences: dict[SlotKey, set[int]] = {}
    rng = np.random.default_rng(0)
    counts = np.array([len(gene.choices) for gene in space.genes])
    optional = {
        (gene.stage, gene.slot): column for column, gene in enumerate(space.genes) if gene.optional
    }
    for _ in range(_NUM_PROBES):
        # The deepest architecture holds every slot; the other choices are drawn.
        base = counts - 1
        for column, gene in enumerate(space.genes):
            if not gene.name.startswith(("resolution", "depth.")):
                base[column] = rng.integers(counts[column])
        blocks = _grouped(space, base)
        for key in blocks:
            influences.setdefault(key, set())
        for column, gene in enumerate(space.genes):
            if gene.name.startswith(("resolution", "depth.")):
                continue
            for choice in range(counts[column]):
                # Rounding may make two choices of a width alike, so every one is tried.
                varied = base.copy()
                varied[column] = choice
                for key, layers in _grouped(space, varied).items():
                    if not _alike(layers, blocks[key]):
                        influences[key].add(column)
    return tuple(
        _slot(key, sorted(influences[key]), counts, optional.get(key)) for key in sorted(influences)
    )


class SlotTables:
    """Rows of figures for every slot, resolution and combination of genes.

    Parameters
    ----------
    space
        The search space.
    row
        Turns the layers of one slot into its row, of shape (num_figures,).
    num_figures
        Length of a row.
    num_classes
        Passed on to `SearchSpace.layers`.
    """

    def __init__(
        self,
        space: SearchSpace,
        row: RowFunction,
        num_figures: int,
        *,
        num_classes: int | None = None,
    ) -> None:
        self.space = space
        self.num_figures = num_figures
        self.slots = slots_of(space)
        self._row = row
        self._num_classes = num_classes
        num_resolutions = len(space.resolutions)
        # The last row of every table stands for an absent slot and stays zero.
        self._tables = [
            np.zeros((num_resolutions * len(slot.combinations) + 1, num_figures))
            for slot in self.slots
        ]
        self._is_filled = np.zeros(num_resolutions, dtype=bool)

    def table(self, slot: int) -> NDArray[np.float64]:
        """Return one slot's table over all resolutions, of shape (rows + 1, num_figures)."""
        self._fill(np.arange(len(self._is_filled)))
        return self._tables[slot]

    def rows(self, indices: Indices) -> list[NDArray[np.int64]]:
        """Return for each slot which table row each architecture uses, of shape (n,)."""
        return slot_rows(self.slots, indices)

    def total(self, indices: Indices) -> NDArray[np.float64]:
        """Return the sum over all slots, of shape (n, num_figures)."""
        self._fill(indices[:, 0])
        total = np.zeros((len(indices), self.num_figures))
        for table, rows in zip(self._tables, self.rows(indices), strict=True):
            total += table[rows]
        return total

    def maximum(self, indices: Indices) -> NDArray[np.float64]:
        """Return the maximum over all slots, of shape (n, num_figures)."""
        self._fill(indices[:, 0])
        largest = np.zeros((len(indices), self.num_figures))
        for table, rows in zip(self._tables, self.rows(indices), strict=True):
            np.maximum(largest, table[rows], out=largest)
        return largest

    def per_slot(self, indices: Indices) -> NDArray[np.float64]:
        """Return every slot's row, of shape (n, num_slots, num_figures)."""
        self._fill(indices[:, 0])
        pairs = zip(self._tables, self.rows(indices), strict=True)
        return np.stack([table[rows] for table, rows in pairs], axis=1)

    def _fill(self, resolutions: Indices) -> None:
        """Compute the tables of resolutions that are asked for the first time."""
        for resolution in np.unique(resolutions):
            if not self._is_filled[resolution]:
                self._fill_resolution(int(resolution))
                self._is_filled[resolution] = True

    def _fill_resolution(self, resolution: int) -> None:
        """Compute every slot's rows at one resolution from as few architectures as possible."""
        pixels = self.space.resolutions[resolution]
        for slot_index, combination, layers in slot_layers(self.space, pixels, self._num_classes):
            place = resolution * len(self.slots[slot_index].combinations) + combination
            self._tables[slot_index][place] = self._row(layers)


def slot_layers(
    space: SearchSpace, resolution: int, num_classes: int | None = None
) -> Iterator[tuple[int, int, list[LayerSpec]]]:
    """Yield the layers of every slot under every combination of its genes, at one resolution.

    Yields
    ------
    Index of the slot in `slots_of`, number of the combination, its layers.
    """
    slots = slots_of(space)
    for genes, members in _covering(space):
        blocks = _grouped(space, genes, num_classes, resolution)
        for slot_index, combination in members:
            yield slot_index, combination, blocks[slots[slot_index].key]


def slot_rows(slots: Sequence[Slot], indices: Indices) -> list[NDArray[np.int64]]:
    """Return for each slot which table row each architecture uses, of shape (n,)."""
    columns = np.ascontiguousarray(indices.T)
    resolution = columns[0]
    result = []
    for slot in slots:
        row = resolution * len(slot.combinations)
        for gene, radix in zip(slot.genes, slot.radices, strict=True):
            row = row + columns[gene] * radix
        if slot.depth_column is not None:
            row = np.where(columns[slot.depth_column] == ABSENT, -1, row)
        result.append(row)
    return result


def _slot(key: SlotKey, genes: list[int], counts: Indices, depth_column: int | None) -> Slot:
    """Enumerate the combinations of a slot's genes."""
    choices = [range(int(counts[gene])) for gene in genes]
    product = list(itertools.product(*choices))
    combinations = np.array(product, dtype=np.int64).reshape(len(product), len(genes))
    sizes = [len(options) for options in choices]
    radices = np.array([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))], dtype=np.int64)
    return Slot(key, tuple(genes), combinations, radices, depth_column)


@lru_cache(maxsize=16)
def _covering(space: SearchSpace) -> list[tuple[Indices, list[tuple[int, int]]]]:
    """Return deepest architectures that together show every combination of every slot.

    Each comes with the (slot, combination) pairs that are to be read from it.
    """
    deepest = np.array([len(gene.choices) - 1 for gene in space.genes], dtype=np.int64)
    slots = slots_of(space)
    pending = [
        (slot_index, combination)
        for slot_index, slot in enumerate(slots)
        for combination in range(len(slot.combinations))
    ]
    covering = []
    while pending:
        chosen: dict[int, int] = {}
        used: set[int] = set()
        members, rest = [], []
        for slot_index, combination in pending:
            slot = slots[slot_index]
            wanted = dict(zip(slot.genes, slot.combinations[combination].tolist(), strict=True))
            is_free = slot_index not in used
            if is_free and all(chosen.get(gene, value) == value for gene, value in wanted.items()):
                chosen.update(wanted)
                used.add(slot_index)
                members.append((slot_index, combination))
            else:
                rest.append((slot_index, combination))
        genes = deepest.copy()
        genes[list(chosen)] = list(chosen.values())
        covering.append((genes, members))
        pending = rest
    return covering


def _grouped(
    space: SearchSpace,
    genes: Indices,
    num_classes: int | None = None,
    resolution: int | None = None,
) -> dict[SlotKey, list[LayerSpec]]:
    """Return an architecture's layers by slot, at another resolution if one is given."""
    architecture = space.from_indices(genes)
    if resolution is not None:
        architecture = dataclasses.replace(architecture, resolution=resolution)
    groups: dict[SlotKey, list[LayerSpec]] = {}
    for layer in space.layers(architecture, num_classes):
        groups.setdefault((layer.stage, layer.block), []).append(layer)
    return groups


def _alike(first: Sequence[LayerSpec], second: Sequence[LayerSpec]) -> bool:
    """Compare layers but for their names: those count the blocks before, which change nothing."""
    return len(first) == len(second) and all(
        one is other or dataclasses.replace(one, name=other.name) == other
        for one, other in zip(first, second, strict=True)
    )
