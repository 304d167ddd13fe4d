"""The most accurate architecture within limits: many walks of a local search side by side.

Along a limit the landscape is rugged: what one change, or even an exchange of three, cannot improve
is seldom the best. So a walk that has come to an end starts again where two earlier ends are
mixed, which keeps what they agree on (memetic search, after Moscato 1989); and since no walk
competes with another, none is given up for one that happens to be ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.config import BEST_CONFIG, WalkConfig
from ofa_compile.search.moves import Moves
from ofa_compile.search.population import Scored, best_first, merit, most_accurate, score
from ofa_compile.search.problem import Indices, SearchProblem
from ofa_compile.search.start import additive_front


def walk_to_best(
    problem: SearchProblem,
    rng: np.random.Generator,
    config: WalkConfig = BEST_CONFIG,
    known: Scored | None = None,
) -> Scored:
    """Search for the most accurate architecture within the limits.

    Parameters
    ----------
    problem, rng, config
        What to search, and how much.
    known
        What another search has found: walks start from it as well.

    Returns
    -------
    The best member alone; the least violating one if none is feasible.
    """
    budget = problem.num_evaluated + config.max_evaluations
    moves = Moves(problem)
    starts = _Starts(problem, rng, config, known)
    best = most_accurate(starts.begun)
    walks = _Walks.begin(starts.draw(config.walks))
    tried = np.empty(0, dtype=np.uint64)
    num_idle = 0
    while problem.num_evaluated < budget and num_idle < config.patience:
        tried = np.concatenate([tried, problem.keys(walks.now.genotypes)])
        owner, around = _neighbours(problem, moves, walks.now, config)
        before, best = best, most_accurate(best.join(around))
        walks.step(owner, around, np.isin(problem.keys(around.genotypes), tried))
        ended = walks.num_idle == config.idle_steps
        if ended.any():
            starts.add(walks.record.take(ended))
            walks.restart(ended, starts.draw(int(ended.sum())))
        is_better = best.values[0, 0] < before.values[0, 0] or best.violations < before.violations
        num_idle = 0 if is_better else num_idle + int(ended.sum())
    return best


class _Starts:
    """Where walks begin: on the front of an additive model, or between the ends of other walks."""

    def __init__(
        self,
        problem: SearchProblem,
        rng: np.random.Generator,
        config: WalkConfig,
        known: Scored | None,
    ) -> None:
        self._problem, self._rng, self._config = problem, rng, config
        rows = [problem.uniform_rows(), additive_front(problem, rng, config.start_size)]
        begun = score(problem, np.concatenate(rows))
        self.begun = best_first(problem, begun if known is None else begun.join(known))
        self._ends = self.begun.take(slice(0))
        self._frame = [n for n, gene in enumerate(problem.space.genes) if gene.stage < 0]

    def add(self, ends: Scored) -> None:
        """Keep the best ends of walks, few of the same resolution and depths.

        Where all have the same, no mixture leads elsewhere.
        """
        ends = best_first(self._problem, self._ends.join(ends))
        frames = ends.genotypes[:, self._frame]
        is_same = (frames[:, None] == frames).all(axis=2)
        num_better = np.tril(is_same, -1).sum(axis=1)
        ends = ends.take(num_better < self._config.num_ends_alike)
        self._ends = ends.take(slice(self._config.num_ends))

    def draw(self, count: int) -> Scored:
        """Return as many members to start from."""
        rng, shape = self._rng, (count, self.begun.genotypes.shape[1])
        begun = self.begun.genotypes
        # The better, the more often.
        rows = begun[(len(begun) * rng.random(count) ** 2).astype(np.int64)]
        if len(self._ends) > 1 and rng.random() >= self._config.fresh_share:
            first, second = self._ends.genotypes[rng.integers(0, len(self._ends), (2, count))]
            rows = np.where(rng.random(shape) < 0.5, first, second)
        is_redrawn = rng.random(shape) < self._config.mutation_probability
        fresh = self._problem.sample(rng, count)
        return score(self._problem, np.where(is_redrawn, fresh, rows))


@dataclass
class _Walks:
    """Where each walk is, the best that it has seen, and for how many steps that has stood."""

    now: Scored
    record: Scored
    num_idle: NDArray[np.int64]

    @classmethod
    def begin(cls, now: Scored) -> _Walks:
        """Start at the members given."""
        return cls(now, now, np.zeros(len(now), dtype=np.int64))

    def step(self, owner: NDArray[np.int64], around: Scored, is_tried: NDArray[np.bool_]) -> None:
        """Go to the best neighbour that nobody has been at, even if it is worse."""
        value = np.where(is_tried, np.inf, merit(around))
        order = np.lexsort((value, owner))
        places = np.arange(len(self.now))
        self.now = around.take(order[np.searchsorted(owner[order], places)])
        gains = merit(self.now) < merit(self.record)
        self.record = self.record.join(self.now).take(places + len(places) * gains)
        self.num_idle = np.where(gains, 0, self.num_idle + 1)

    def restart(self, ended: NDArray[np.bool_], fresh: Scored) -> None:
        """Put fresh members in the place of walks that have ended."""
        places = np.arange(len(self.now))
        places[ended] = len(self.now) + np.arange(len(fresh))
        self.now, self.record = (part.join(fresh).take(places) for part in (self.now, self.record))
        self.num_idle[ended] = 0


def _neighbours(
    problem: SearchProblem, moves: Moves, members: Scored, config: WalkConfig
) -> tuple[NDArray[np.int64], Scored]:
    """Score what is one change from each member, and the best pairs and triples of changes.

    Each member is its own neighbour too: none is without.
    """

    def promise(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return merit(Scored(_NO_ROWS, values, problem.violation(values)))

    owner, move, rows = moves.apply(members.genotypes)
    singles = score(problem, rows)
    sizes = (config.num_pairs, config.num_triples)
    owners, several = moves.combine(members, owner, move, singles, promise, *sizes)
    all_owners = np.concatenate([np.arange(len(members)), owner, owners])
    return all_owners, members.join(singles, score(problem, several))


_NO_ROWS: Indices = np.empty((0, 0), dtype=np.int64)
