"""Search spaces: which architectures exist, and how to sample, vary and encode them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ofa_compile.errors import ArchitectureError
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec

ABSENT = -1
RESOLUTION_RANGE = (32, 512)
RESOLUTION_STEP = 4


@dataclasses.dataclass(frozen=True)
class Gene:
    """One choice of a search space.

    Attributes
    ----------
    name
        For instance ``resolution``, ``depth.1``, ``kernel_size.1.0``, ``expand_ratio.1.0``.
    choices
        Allowed values, ascending.
    stage, slot
        Block the gene belongs to; -1 for genes of no block. The gene is absent in architectures
        whose stage has at most `slot` blocks.
    optional
        Whether the gene can be absent.
    """

    name: str
    choices: tuple[float | int, ...]
    stage: int = -1
    slot: int = -1
    optional: bool = False


class SearchSpace(ABC):
    """All admissible architectures of one supernet.

    An architecture is equivalent to a vector of choice indices, one per gene, with `ABSENT` where
    a block does not exist; sampling, mutation, crossover and encoding work on those vectors, so
    whatever they return is valid by construction.
    """

    family: ClassVar[str]
    name: str
    resolutions: tuple[int, ...]
    num_classes_default: int
    bn_epsilon: float

    @property
    @abstractmethod
    def stage_depths(self) -> tuple[tuple[int, ...], ...]:
        """Choices of `Architecture.depths`, per stage."""

    @property
    @abstractmethod
    def base_depths(self) -> tuple[int, ...]:
        """Blocks of each stage that come on top of `Architecture.depths`."""

    @property
    @abstractmethod
    def extra_genes(self) -> tuple[Gene, ...]:
        """Genes that belong to no block, besides resolution and depths."""

    @property
    @abstractmethod
    def block_choices(self) -> tuple[tuple[str, tuple[float | int, ...]], ...]:
        """Name and choices of each gene of a block."""

    @abstractmethod
    def _values(self, architecture: Architecture) -> dict[str, Any]:
        """Return the family's fields by gene group: extra genes as list, block genes nested."""

    @abstractmethod
    def _architecture(
        self,
        resolution: int,
        depths: tuple[int, ...],
        extra: list[Any],
        blocks: dict[str, tuple[tuple[Any, ...], ...]],
    ) -> Architecture: ...

    @abstractmethod
    def _check_fields(self, architecture: Architecture) -> None:
        """Raise ArchitectureError if the fields do not fit the family (counts, unused fields)."""

    @abstractmethod
    def layers(self, architecture: Architecture, num_classes: int | None = None) -> list[LayerSpec]:
        """List the layers of a subnet in execution order."""

    @cached_property
    def num_stages(self) -> int:
        """Number of elastic stages."""
        return len(self.stage_depths)

    @cached_property
    def stage_max_blocks(self) -> tuple[int, ...]:
        """Blocks of each stage in the largest architecture."""
        return tuple(
            base + max(depths)
            for base, depths in zip(self.base_depths, self.stage_depths, strict=True)
        )

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """All genes in a fixed order: resolution, extra, depths, then the block genes."""
        genes = [Gene("resolution", self.resolutions), *self.extra_genes]
        genes += [Gene(f"depth.{s}", choices, s) for s, choices in enumerate(self.stage_depths)]
        for name, choices in self.block_choices:
            for stage, num_slots in enumerate(self.stage_max_blocks):
                always = self.base_depths[stage] + min(self.stage_depths[stage])
                genes += [
                    Gene(f"{name}.{stage}.{slot}", choices, stage, slot, slot >= always)
                    for slot in range(num_slots)
                ]
        return tuple(genes)

    @cached_property
    def _choice_counts(self) -> NDArray[np.int64]:
        return np.array([len(gene.choices) for gene in self.genes], dtype=np.int64)

    @cached_property
    def _index_of(self) -> tuple[dict[float | int, int], ...]:
        return tuple({value: i for i, value in enumerate(gene.choices)} for gene in self.genes)

    @cached_property
    def _optional_genes(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Columns of the genes that can be absent, with their stages and slots."""
        found = [(i, gene.stage, gene.slot) for i, gene in enumerate(self.genes) if gene.optional]
        columns, stages, slots = np.array(found, dtype=np.int64).reshape(-1, 3).T
        return columns, stages, slots

    @cached_property
    def _first_depth_gene(self) -> int:
        return 1 + len(self.extra_genes)

    def indices(self, architectures: Sequence[Architecture]) -> NDArray[np.int64]:
        """Return the choice indices, of shape (n, number of genes), `ABSENT` for absent blocks.

        Raises
        ------
        ArchitectureError
            If an architecture lies outside the space, or its resolution is not one of
            `resolutions`.
        """
        rows = [self._row(architecture) for architecture in architectures]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self.genes))

    def _row(self, architecture: Architecture) -> list[int]:
        self.validate(architecture)
        if architecture.resolution not in self.resolutions:
            message = (
                f"resolution {architecture.resolution} of {self.name} cannot be encoded; "
                f"the space's resolutions are {_listing(self.resolutions)}"
            )
            raise ArchitectureError(message, hint="Choose one of the space's resolutions.")
        values = self._values(architecture)
        flat: list[Any] = [architecture.resolution, *values["extra"], *architecture.depths]
        for name, _ in self.block_choices:
            for stage, num_slots in enumerate(self.stage_max_blocks):
                active = values[name][stage]
                flat.extend(active)
                flat.extend([None] * (num_slots - len(active)))
        return [
            ABSENT if value is None else lookup[value]
            for value, lookup in zip(flat, self._index_of, strict=True)
        ]

    def from_indices(self, row: ArrayLike) -> Architecture:
        """Build the architecture of one vector of choice indices; absent slots are ignored."""
        index = np.asarray(row, dtype=np.int64).tolist()
        values = [
            gene.choices[i] if i >= 0 else None for gene, i in zip(self.genes, index, strict=True)
        ]
        first_depth = self._first_depth_gene
        position = first_depth + self.num_stages
        depths: tuple[Any, ...] = tuple(values[first_depth:position])
        blocks: dict[str, tuple[tuple[Any, ...], ...]] = {}
        for name, _ in self.block_choices:
            stages = []
            for stage, num_slots in enumerate(self.stage_max_blocks):
                active = self.base_depths[stage] + depths[stage]
                stages.append(tuple(values[position : position + active]))
                position += num_slots
            blocks[name] = tuple(stages)
        resolution: Any = values[0]
        return self._architecture(resolution, depths, values[1:first_depth], blocks)

    def sample_indices(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Draw `count` uniform vectors of choice indices, of shape (count, number of genes)."""
        return self.mark_absent(rng.integers(0, self._choice_counts, (count, len(self.genes))))

    def mark_absent(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a copy with `ABSENT` at the genes of blocks beyond each stage's depth."""
        marked = indices.copy()
        columns, stages, slots = self._optional_genes
        active = self.num_active_blocks(indices)[:, stages]
        marked[:, columns] = np.where(active <= slots, ABSENT, indices[:, columns])
        return marked

    def num_active_blocks(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the blocks per stage, of shape (n, stages)."""
        first = self._first_depth_gene
        columns = [
            np.array(choices)[indices[:, first + stage]] + self.base_depths[stage]
            for stage, choices in enumerate(self.stage_depths)
        ]
        return np.stack(columns, axis=1)

    def sample(self, rng: np.random.Generator, *, resolution: int | None = None) -> Architecture:
        """Draw an architecture: every depth, block choice and resolution uniformly."""
        architecture = self.from_indices(self.sample_indices(rng, 1)[0])
        return self._at_resolution(architecture, resolution)

    def mutate(
        self, architecture: Architecture, rng: np.random.Generator, probability: float = 0.1
    ) -> Architecture:
        """Redraw each gene with the given probability; new blocks get random choices."""
        row = self._completed(architecture, rng)
        redrawn = rng.integers(0, self._choice_counts)
        return self.from_indices(np.where(rng.random(len(row)) < probability, redrawn, row))

    def crossover(
        self, first: Architecture, second: Architecture, rng: np.random.Generator
    ) -> Architecture:
        """Take each gene from one parent or the other with equal probability."""
        take_first = rng.random(len(self.genes)) < 0.5
        mixed = np.where(take_first, self._completed(first, rng), self._completed(second, rng))
        return self.from_indices(mixed)

    def _completed(self, architecture: Architecture, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return indices with random choices at absent slots, at the nearest known resolution."""
        self.validate(architecture)
        nearest = min(self.resolutions, key=lambda r: abs(r - architecture.resolution))
        row = self.indices([self._at_resolution(architecture, nearest)])[0]
        return np.where(row == ABSENT, rng.integers(0, self._choice_counts), row)

    def _at_resolution(self, architecture: Architecture, resolution: int | None) -> Architecture:
        if resolution is None or resolution == architecture.resolution:
            return architecture
        self._check_resolution(resolution)
        return dataclasses.replace(architecture, resolution=resolution)

    def smallest(self, resolution: int | None = None) -> Architecture:
        """Return the architecture with the smallest value of every gene."""
        row = np.zeros(len(self.genes), dtype=np.int64)
        return self._at_resolution(self.from_indices(row), resolution)

    def largest(self, resolution: int | None = None) -> Architecture:
        """Return the architecture with the largest value of every gene."""
        return self._at_resolution(self.from_indices(self._choice_counts - 1), resolution)

    def size(self) -> int:
        """Count the architectures of the space, over all its resolutions."""
        per_block = 1
        for _, choices in self.block_choices:
            per_block *= len(choices)
        total = len(self.resolutions)
        for gene in self.extra_genes:
            total *= len(gene.choices)
        for base, depths in zip(self.base_depths, self.stage_depths, strict=True):
            total *= sum(per_block ** (base + depth) for depth in depths)
        return total

    def contains(self, architecture: Architecture) -> bool:
        """Tell whether `validate` accepts the architecture."""
        try:
            self.validate(architecture)
        except ArchitectureError:
            return False
        return True

    def validate(self, architecture: Architecture) -> None:
        """Check that an architecture belongs to this space.

        Any multiple of 4 from 32 to 512 is accepted as a resolution, besides `resolutions`.

        Raises
        ------
        ArchitectureError
            If it does not; the message names the field, the value and what is allowed.
        """
        if architecture.space != self.name:
            message = f"architecture is of space {architecture.space!r}, not {self.name!r}"
            raise ArchitectureError(message, hint="Set its `space` or load the other supernet.")
        self._check_resolution(architecture.resolution)
        self._check_length("depths", architecture.depths, self.num_stages, "stages")
        for stage, (depth, allowed) in enumerate(
            zip(architecture.depths, self.stage_depths, strict=True)
        ):
            self._check_choice(f"depths[{stage}]", depth, allowed)
        self._check_fields(architecture)

    def _check_resolution(self, resolution: int) -> None:
        low, high = RESOLUTION_RANGE
        in_range = low <= resolution <= high and resolution % RESOLUTION_STEP == 0
        if not in_range and resolution not in self.resolutions:
            message = (
                f"resolution {resolution} is outside {self.name}: allowed are multiples of "
                f"{RESOLUTION_STEP} from {low} to {high} and {_listing(self.resolutions)}"
            )
            raise ArchitectureError(message, hint="Choose an allowed resolution.")

    def _check_choice(self, field: str, value: float, allowed: Sequence[float | int]) -> None:
        if value not in allowed:
            message = f"{field} = {value} is outside {self.name}: allowed are {_listing(allowed)}"
            raise ArchitectureError(message, hint="Choose one of the allowed values.")

    def _check_length(self, field: str, value: Sequence[Any], wanted: int, what: str) -> None:
        if len(value) != wanted:
            message = (
                f"{field} has {len(value)} entries, but {self.name} needs {wanted} (its {what})"
            )
            raise ArchitectureError(message, hint=f"Give {wanted} entries.")

    def _check_blocks(
        self,
        field: str,
        stages: tuple[tuple[Any, ...], ...],
        depths: tuple[int, ...],
        allowed: tuple[float | int, ...],
    ) -> None:
        """Check one per-block field: as many entries as the stage has blocks, allowed values."""
        self._check_length(field, stages, self.num_stages, "stages")
        for stage, values in enumerate(stages):
            num_blocks = self.base_depths[stage] + depths[stage]
            self._check_length(f"{field}[{stage}]", values, num_blocks, "active blocks there")
            for block, value in enumerate(values):
                if value not in allowed:
                    self._check_choice(f"{field}[{stage}][{block}]", value, allowed)

    @cached_property
    def encoding_offsets(self) -> NDArray[np.int64]:
        """Where each gene begins in an encoding, and last the encoding's length."""
        widths = [len(gene.choices) + gene.optional for gene in self.genes]
        return np.concatenate([[0], np.cumsum(widths)])

    @cached_property
    def encoding_size(self) -> int:
        """Length of an architecture encoding."""
        return int(self.encoding_offsets[-1])

    def encode(self, architectures: Sequence[Architecture]) -> NDArray[np.float32]:
        """Encode architectures one-hot: every gene's choice, with "absent" as a choice of its own.

        Returns
        -------
        Zeros and ones of shape (n, `encoding_size`).

        Raises
        ------
        ArchitectureError
            If an architecture lies outside the space, or its resolution is not one of
            `resolutions`.
        """
        return self.encode_indices(self.indices(architectures))

    def encode_indices(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Encode vectors of choice indices, as `encode` does for architectures."""
        columns = np.where(indices == ABSENT, self._choice_counts, indices)
        code = np.zeros((len(indices), self.encoding_size), dtype=np.float32)
        rows = np.arange(len(indices))[:, None]
        code[rows, columns + self.encoding_offsets[:-1]] = 1.0
        return code

    def decode(self, code: ArrayLike) -> Architecture:
        """Return the architecture of one encoding, of shape (`encoding_size`,).

        Raises
        ------
        ArchitectureError
            If the vector has another length.
        """
        vector = np.asarray(code, dtype=np.float32)
        if vector.shape != (self.encoding_size,):
            message = (
                f"an encoding of {self.name} has shape ({self.encoding_size},), got {vector.shape}"
            )
            raise ArchitectureError(message, hint="Decode one row of what `encode` returned.")
        parts = np.split(vector, self.encoding_offsets[1:-1])
        row = np.array([int(part.argmax()) for part in parts])
        row[row >= self._choice_counts] = ABSENT
        return self.from_indices(row)


def _listing(values: Sequence[float | int]) -> str:
    """Write a sequence of numbers, evenly spaced ones shortened."""
    if len(values) > 6 and len({b - a for a, b in pairwise(values)}) == 1:
        return f"{values[0]}, {values[1]}, ..., {values[-1]}"
    return ", ".join(str(value) for value in values)
