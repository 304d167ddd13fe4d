"""What a search optimises: a population of choice indices in, objectives and violations out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArchitectureError, ConfigError
from ofa_compile.predictors.cost_tables import CostTables
from ofa_compile.search.constraints import LATENCY, Limits, latency_figure, option_name
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

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
        Predictor or estimator of milliseconds, if latency matters; or one for each of several
        targets, by name. The front is drawn for the first of them.
    limits
        Upper limits on the figures.
    resolution
        Search at this resolution only.

    Raises
    ------
    ArchitectureError
        If no resolution is left that the space and all predictors cover.
    ConfigError
        If a latency is limited that nothing predicts.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        accuracy: Predictor,
        latency: Predictor | Mapping[str, Predictor] | None = None,
        limits: Limits | None = None,
        resolution: int | None = None,
    ) -> None:
        self.space = space
        self.limits = limits or Limits()
        self.accuracy = accuracy
        self.latencies: dict[str, Predictor] = {}
        if isinstance(latency, Mapping):
            self.latencies = {latency_figure(name): each for name, each in latency.items()}
        elif latency is not None:
            self.latencies = {LATENCY: latency}
        self.costs = CostTables(space)
        self.num_evaluated = 0
        self.choice_counts = np.array([len(gene.choices) for gene in space.genes], dtype=np.int64)
        self.resolution_choices = self._resolution_choices(resolution)
        self.cost_name = self._choose_cost()
        others = [name for name in self.limits.active if name != self.cost_name]
        self.figure_names = (self.cost_name, *others)
        self._check_latencies()
        # Odd multipliers of all 64 bits: rows that differ get different keys.
        draws = np.random.default_rng(0).integers(0, 2**63, len(self.choice_counts))
        self._multipliers = (2 * draws + 1).astype(np.uint64)

    def figure(self, name: str, indices: Indices) -> NDArray[np.float64]:
        """Return one figure of each row of choice indices, of shape (n,)."""
        if name == "accuracy":
            return self._predicted(self.accuracy, indices)
        if name in self.latencies:
            return self._predicted(self.latencies[name], indices)
        return self.costs.figure(name, indices)

    def score(self, indices: Indices) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return values, of shape (n, 1 + figures), and violations, of shape (n,).

        The first two columns are the objectives, to be minimised: negated accuracy and cost. The
        other limited figures follow, in the order of `figure_names`.
        """
        figures = [self.figure(name, indices) for name in self.figure_names]
        values = np.stack([-self.figure("accuracy", indices), *figures], axis=1)
        self.num_evaluated += len(indices)
        return values, self.violation(values)

    def violation(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much values as `score` gives them exceed the limits, of shape (n,)."""
        if not self.limits.active:
            return np.zeros(len(values))
        columns = zip(self.figure_names, values.T[1:], strict=True)
        return self.limits.violation(dict(columns))

    def latency_kind(self, figure: str) -> LatencyKind:
        """Tell whether a latency stems from measurements or is an estimate."""
        kind: LatencyKind = getattr(self.latencies[figure], "kind", "measurement")
        return kind

    def keys(self, genotypes: Indices) -> NDArray[np.uint64]:
        """Return a number for each genotype that equal architectures share, and others do not.

        Two others coincide with a chance of 2**-63.
        """
        expressed = self.space.mark_absent(genotypes) + 1
        mixed = expressed.astype(np.uint64) * self._multipliers
        keys: NDArray[np.uint64] = mixed.sum(axis=1, dtype=np.uint64)
        return keys

    def distinct(self, genotypes: Indices) -> NDArray[np.int64]:
        """Return the positions of genotypes with different architectures, in order."""
        _, first = np.unique(self.keys(genotypes), return_index=True)
        return np.sort(first)

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
        if self.latencies:
            return next(iter(self.latencies))
        limited = [name for name in self.limits.active if name != "latency_ms"]
        return limited[0] if len(limited) == 1 else "macs"

    def _check_latencies(self) -> None:
        """Refuse a limit on a latency that nothing predicts."""
        unknown = [
            name
            for name in self.limits.active
            if name.startswith(LATENCY) and name not in self.latencies
        ]
        if unknown:
            known = ", ".join(name.partition("@")[2] or "the only one" for name in self.latencies)
            msg = (
                f"{' and '.join(map(option_name, unknown))} needs a latency predictor or "
                f"estimator; there are: {known or 'none'}"
            )
            raise ConfigError(msg, hint="pass latency=..., or limit MACs instead")

    def _resolution_choices(self, resolution: int | None) -> Indices:
        """Return the choice indices of the resolutions that may be searched."""
        allowed = set(self.space.resolutions)
        for predictor in (self.accuracy, *self.latencies.values()):
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


def _group(name: str) -> str:
    """Return what kind of choice a gene is: the first word of its name."""
    return name.split(".", 1)[0]
