"""What a search optimises: a population of choice indices in, objectives and violations out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArchitectureError
from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.search.constraints import Limits
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import ABSENT, SearchSpace

Indices = NDArray[np.int64]
Figures = dict[str, NDArray[np.float64]]
LatencyKind = Literal["measurement", "estimate"]

_CHUNK = 16384


class Predictor(Protocol):
    """Anything that gives one figure for each architecture.

    Two optional methods make it fast: `predict_indices(space, indices)`, or
    `predict_encoded(codes)` on the space's encoding.
    """

    def predict(self, architectures: Sequence[Architecture], /) -> NDArray[np.float64]:
        """Return one figure per architecture, of shape (n_architectures,)."""


@runtime_checkable
class _PredictsIndices(Protocol):
    def predict_indices(self, space: SearchSpace, indices: Indices) -> NDArray[np.float64]: ...


@runtime_checkable
class _PredictsEncoded(Protocol):
    def predict_encoded(self, codes: NDArray[np.float32]) -> NDArray[np.float64]: ...


class SearchProblem:
    """Scores populations of one space.

    Parameters
    ----------
    space
        The search space.
    accuracy
        Predictor of the top-1 fraction; more is better.
    latency
        Predictor or estimator of milliseconds, if latency matters.
    limits
        Upper limits on the figures.
    resolution
        Search at this resolution only.

    Raises
    ------
    ArchitectureError
        If no resolution is left that the space and both predictors cover.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        accuracy: Predictor,
        latency: Predictor | None = None,
        limits: Limits | None = None,
        resolution: int | None = None,
    ) -> None:
        self.space = space
        self.limits = limits or Limits()
        self.accuracy = accuracy
        self.latency = latency
        self.latency_kind: LatencyKind | None = None
        if latency is not None:
            self.latency_kind = getattr(latency, "kind", "measurement")
        self.costs = CostTables(space)
        self.num_evaluated = 0
        self.choice_counts = np.array([len(gene.choices) for gene in space.genes], dtype=np.int64)
        self.resolution_choices = self._resolution_choices(resolution)
        self.cost_name = self._choose_cost()

    def figure(self, name: str, indices: Indices) -> NDArray[np.float64]:
        """Return one figure of each row of choice indices, of shape (n,)."""
        if name == "accuracy":
            return self._predicted(self.accuracy, indices)
        if name == "latency_ms":
            if self.latency is None:
                msg = "max_latency_ms needs a latency predictor or estimator"
                raise ArchitectureError(msg, hint="pass latency=..., or limit MACs instead")
            return self._predicted(self.latency, indices)
        return self.costs.figure(name, indices)

    def score(self, indices: Indices) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return objectives to minimise, of shape (n, 2), and violations, of shape (n,).

        The objectives are the negated accuracy and the cost.
        """
        names = {self.cost_name, *self.limits.active}
        figures = {name: self.figure(name, indices) for name in names}
        accuracy = self.figure("accuracy", indices)
        self.num_evaluated += len(indices)
        objectives = np.stack([-accuracy, figures[self.cost_name]], axis=1)
        return objectives, self.limits.violation(figures)

    def sample(self, rng: np.random.Generator, count: int) -> Indices:
        """Draw `count` full genotypes, of shape (count, genes); nothing in them is absent."""
        rows = rng.integers(0, self.choice_counts, (count, len(self.choice_counts)))
        rows[:, 0] = rng.choice(self.resolution_choices, count)
        return rows

    def uniform_rows(self) -> Indices:
        """Return genotypes that take the same step of every choice; they span the space's corners.

        Depth and block genes go through all combinations of their extremes, at three resolutions.
        """
        groups = np.array([_group(gene.name) for gene in self.space.genes])
        names = [name for name in dict.fromkeys(groups.tolist()) if name != "resolution"]
        ends = self.resolution_choices[[0, len(self.resolution_choices) // 2, -1]]
        rows = []
        for resolution in dict.fromkeys(ends.tolist()):
            for code in range(2 ** len(names)):
                row = np.zeros(len(groups), dtype=np.int64)
                for bit, name in enumerate(names):
                    if code >> bit & 1:
                        row[groups == name] = self.choice_counts[groups == name] - 1
                row[0] = resolution
                rows.append(row)
        return np.array(rows)

    def architectures(self, indices: Indices) -> list[Architecture]:
        """Return the architecture of each row."""
        return [self.space.from_indices(row) for row in indices]

    def _predicted(self, predictor: Predictor, indices: Indices) -> NDArray[np.float64]:
        """Ask a predictor in the fastest way that it offers."""
        parts = []
        for start in range(0, len(indices), _CHUNK):
            rows = indices[start : start + _CHUNK]
            if isinstance(predictor, _PredictsIndices):
                part = predictor.predict_indices(self.space, rows)
            elif isinstance(predictor, _PredictsEncoded):
                part = predictor.predict_encoded(self.space.encode_indices(rows))
            else:
                part = predictor.predict(self.architectures(rows))
            parts.append(np.asarray(part, dtype=np.float64))
        return np.concatenate(parts) if parts else np.empty(0)

    def _choose_cost(self) -> str:
        """Return the figure that the front trades accuracy against."""
        if self.latency is not None:
            return "latency_ms"
        limited = [name for name in self.limits.active if name != "latency_ms"]
        return limited[0] if len(limited) == 1 else "macs"

    def _resolution_choices(self, resolution: int | None) -> Indices:
        """Return the choice indices of the resolutions that may be searched."""
        allowed = set(self.space.resolutions)
        for predictor in (self.accuracy, self.latency):
            covered = getattr(predictor, "resolutions", None)
            if covered is not None:
                allowed &= set(covered)
        if resolution is not None:
            if resolution not in allowed:
                known = ", ".join(map(str, sorted(allowed))) or "none"
                msg = (
                    f"cannot search {self.space.name} at resolution {resolution}; "
                    f"space and predictors cover {known}"
                )
                raise ArchitectureError(msg, hint="choose one of them, or fit on that resolution")
            allowed = {resolution}
        if not allowed:
            msg = f"the predictors have no resolution of {self.space.name} in common"
            raise ArchitectureError(msg, hint="fit both predictors on a shared resolution")
        choices = [i for i, value in enumerate(self.space.resolutions) if value in allowed]
        return np.array(choices, dtype=np.int64)


def neighbours(problem: SearchProblem, genotypes: Indices) -> Indices:
    """Return every genotype that differs in one gene which its architecture expresses."""
    expressed = problem.space.mark_absent(genotypes) != ABSENT
    moved = []
    for gene, count in enumerate(problem.choice_counts):
        choices = problem.resolution_choices if gene == 0 else np.arange(count)
        bearers = genotypes[expressed[:, gene]]
        for choice in choices:
            rows = bearers[bearers[:, gene] != choice]
            copy = rows.copy()
            copy[:, gene] = choice
            moved.append(copy)
    return np.concatenate(moved)


def distinct_rows(problem: SearchProblem, genotypes: Indices) -> NDArray[np.int64]:
    """Return the positions of genotypes with different architectures, in order."""
    expressed = problem.space.mark_absent(genotypes).astype(np.int8)
    keys = np.ascontiguousarray(expressed).view(np.dtype((np.void, expressed.shape[1])))
    _, first = np.unique(keys.ravel(), return_index=True)
    return np.sort(first)


def _group(name: str) -> str:
    """Return what kind of choice a gene is: the first word of its name."""
    return name.split(".", 1)[0]
