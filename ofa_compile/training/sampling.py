"""Which subnets an accuracy data set holds: spread over the space, in families that share work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ofa_compile.space import Architecture, SearchSpace, macs

__all__ = ["sample_families", "sample_uniform"]

_FAMILY_SIZE = 4
_CANDIDATES = 32
_BINS = 10
_UNIFORM_SHARE = 0.6  # at most, of the choices: drawn whatever the family leans to


def sample_uniform(space: SearchSpace, count: int, seed: int) -> list[list[Architecture]]:
    """Draw distinct architectures uniformly, each a family of its own."""
    rng = np.random.default_rng(seed)
    chosen: dict[Architecture, None] = {}
    limit = min(count, space.size())
    while len(chosen) < limit:
        chosen[space.sample(rng)] = None
    return [[architecture] for architecture in chosen]


def sample_families(
    space: SearchSpace, count: int, seed: int, *, size: int = _FAMILY_SIZE
) -> list[list[Architecture]]:
    """Draw distinct architectures spread over the whole range of sizes, in families.

    Uniform choices crowd around the middle of a space. Here families take the resolutions in turn;
    each first draws, per kind of choice (depth, kernel size, ...), how far it leans to small or
    large values, from a low-discrepancy sequence; of some candidates the one is kept whose
    multiply-accumulates were rarest so far, so that their logarithms are spread evenly. Its
    members share the resolution and the choices of the first stage; those of the second they share
    in groups of ``size / 2``, and so on, so that later stages, which cost less to evaluate anew,
    vary more often. A larger `count` only adds families.

    Parameters
    ----------
    space
        Search space.
    count
        How many architectures in all.
    seed
        Seed of the choices.
    size
        Members of a family; 1 shares nothing.

    Returns
    -------
    Families; the smallest and the largest architecture come first, each by itself.
    """
    rng = np.random.default_rng(seed)
    seen = dict.fromkeys((space.smallest(), space.largest()))
    families = [[architecture] for architecture in seen][:count]
    total, limit = len(families), min(count, space.size())
    bins = _MacsBins(space)
    leanings = _low_discrepancy(len(set(_kinds(space))), rng)
    first = int(rng.integers(len(space.resolutions)))
    for number in itertools.count(first):
        if total >= limit:
            break
        resolution = number % len(space.resolutions)
        candidates = [
            _family(space, resolution, next(leanings), size, rng) for _ in range(_CANDIDATES)
        ]
        family = bins.choose(candidates)
        fresh = [a for a in dict.fromkeys(family) if a not in seen][: limit - total]
        seen.update(dict.fromkeys(fresh))
        total += len(fresh)
        if fresh:
            families.append(fresh)
    return families


class _MacsBins:
    """Counts families by the logarithm of their multiply-accumulates."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        low, high = space.smallest(min(space.resolutions)), space.largest(max(space.resolutions))
        self._edges = np.linspace(self._size([low]), self._size([high]), _BINS + 1)[1:-1]
        self._counts = np.zeros(_BINS, np.int64)

    def _size(self, family: list[Architecture]) -> float:
        return math.log(np.mean([macs(a, space=self._space) for a in family]))

    def choose(self, candidates: list[list[Architecture]]) -> list[Architecture]:
        """Return the candidate of the rarest size, and count it."""
        places = [int(np.searchsorted(self._edges, self._size(c))) for c in candidates]
        best = int(np.argmin(self._counts[places]))
        self._counts[places[best]] += 1
        return candidates[best]


def _kinds(space: SearchSpace) -> list[str]:
    """Return the kind of each gene: resolution, depth, kernel_size, ..."""
    return [gene.name.split(".")[0] for gene in space.genes]


def _low_discrepancy(dimensions: int, rng: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Yield points that fill the unit cube evenly (Kronecker sequence), from a random start."""
    root = 2.0
    for _ in range(60):  # the positive solution of x^(d+1) = x + 1
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    start = rng.random(dimensions)
    for number in itertools.count():
        yield (start + number * steps) % 1.0


def _family(
    space: SearchSpace,
    resolution: int,
    lean: NDArray[np.float64],
    size: int,
    rng: np.random.Generator,
) -> list[Architecture]:
    """Draw the members of one family, at the resolution of that index."""
    choices = np.array([len(gene.choices) for gene in space.genes])
    kinds = _kinds(space)
    probabilities = lean[np.unique(kinds, return_inverse=True)[1]]
    # Genes of no stage (resolution; a ResNet's widths) are common to the family.
    shares = np.array([size if g.stage < 0 else max(1, size >> g.stage) for g in space.genes])
    rows = rng.binomial(choices - 1, probabilities, (size, len(choices)))
    uniform = rng.integers(0, choices, (size, len(choices)))
    share = _UNIFORM_SHARE * rng.random() ** 2
    rows = np.where(rng.random(rows.shape) < share, uniform, rows)
    first_of_group = np.arange(size)[:, None] // shares * shares
    rows = np.take_along_axis(rows, first_of_group, axis=0)
    rows[:, kinds.index("resolution")] = resolution
    return [space.from_indices(row) for row in rows]
