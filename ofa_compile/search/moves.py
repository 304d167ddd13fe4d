"""Steps from one architecture to others: single changes, and combinations that promise much."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.search.population import Scored
from ofa_compile.search.problem import Indices, SearchProblem
from ofa_compile.space.search_space import ABSENT, Gene, SearchSpace

Array = NDArray[np.float64]
# Turns values of shape (n, figures) into what is to be small, of shape (n,).
Merit = Callable[[Array], Array]

_KEPT = -1  # a move leaves this gene as it is
_ANY = -1  # a move applies whatever the gene was, if it is expressed and changes


class Moves:
    """Every change that a space allows, and which of them can be made together.

    A change redraws one gene. A stage that grows comes in all variants of its new blocks (equal
    ones), since genes that were silent hold nothing learnt.

    Parameters
    ----------
    problem
        What is searched; only its resolutions are moved to.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        listed = list(_all_moves(problem.space, problem.resolution_choices))
        self._gene = np.array([gene for gene, _, _ in listed])
        self._before = np.array([before for _, before, _ in listed])
        self._targets = np.array([target for _, _, target in listed])
        touches = (self._targets != _KEPT).astype(np.float32)
        self._are_compatible = touches @ touches.T == 0

    def apply(self, genotypes: Indices) -> tuple[NDArray[np.int64], NDArray[np.int64], Indices]:
        """Make every move that changes an architecture, from each of `genotypes`.

        Returns
        -------
        Position in `genotypes`, number of the move, and the new genotype, one row for each.
        """
        now = genotypes[:, self._gene]
        expressed = self._problem.space.mark_absent(genotypes)[:, self._gene] != ABSENT
        changes = expressed & (now != self._targets[np.arange(len(self._gene)), self._gene])
        owner, move = np.nonzero(changes & ((self._before == _ANY) | (self._before == now)))
        targets = self._targets[move]
        return owner, move, np.where(targets == _KEPT, genotypes[owner], targets)

    def combine(
        self,
        parents: Scored,
        owner: NDArray[np.int64],
        move: NDArray[np.int64],
        singles: Scored,
        merit: Merit,
        num_pairs: int,
        num_triples: int = 0,
    ) -> tuple[NDArray[np.int64], Indices]:
        """Make two or three moves of the same parent where their effects, added up, promise most.

        Trading one block's size for another's is what gets along a limit, and no single move can
        do it; two small blocks against a large one take three. Trying every pair would cost
        thousands of evaluations per parent; that effects nearly add up is enough to tell which are
        worth one. Triples extend the pairs that promise most.

        Parameters
        ----------
        parents
            Where the moves start.
        owner, move, singles
            What `apply` returned for the parents, scored.
        merit
            Judges predicted values; the least are tried.
        num_pairs, num_triples
            How many for each parent.

        Returns
        -------
        Position in `parents`, of shape (n,), and genotypes, all different, of shape (n, genes).
        """
        effects = singles.values - parents.values[owner]
        bounds = np.searchsorted(owner, np.arange(len(parents) + 1))
        found, owners = [], []
        for place, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            steps = _Steps(
                base=parents.values[place],
                effects=effects[start:stop],
                changes=singles.genotypes[start:stop] - parents.genotypes[place],
                are_compatible=self._are_compatible[np.ix_(move[start:stop], move[start:stop])],
                merit=merit,
            )
            pairs = steps.pairs(max(num_pairs, num_triples))
            for chosen in (pairs[:num_pairs], steps.triples(pairs, num_triples)):
                found.append(parents.genotypes[place] + steps.changes[chosen].sum(axis=1))
                owners.append(np.full(len(chosen), place))
        joined = np.concatenate(found)
        kept = self._problem.distinct(joined)
        return np.concatenate(owners)[kept], joined[kept]


@dataclass(frozen=True)
class _Steps:
    """The moves of one parent with their effects, to combine."""

    base: Array
    effects: Array
    changes: Indices
    are_compatible: NDArray[np.bool_]
    merit: Merit

    def pairs(self, count: int) -> NDArray[np.int64]:
        """Return the most promising pairs, the best first, of shape (n, 2)."""
        return self._best(np.argwhere(np.triu(self.are_compatible)), count)

    def triples(self, pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Return the most promising extensions of pairs, the best first, of shape (n, 3)."""
        if not count:
            return np.empty((0, 3), dtype=np.int64)
        allowed = self.are_compatible[pairs[:, 0]] & self.are_compatible[pairs[:, 1]]
        pair, third = np.nonzero(allowed)
        # The same three come from each of their pairs that is listed.
        triples = np.sort(np.c_[pairs[pair], third], axis=1)
        # By one number each: comparing rows takes ten times as long.
        size = len(self.are_compatible)
        _, first = np.unique(triples @ np.array([size * size, size, 1]), return_index=True)
        return self._best(triples[first], count)

    def _best(self, sets: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        if not count or not len(sets):
            return sets[:0]
        # Column by column: a sum along an axis of two or three takes five times as long.
        promised = self.merit(sum((self.effects[column] for column in sets.T), self.base))
        best = np.argpartition(promised, min(count, len(promised) - 1))[:count]
        return sets[best[np.argsort(promised[best], kind="stable")]]


def _all_moves(
    space: SearchSpace, resolution_choices: Indices
) -> Iterator[tuple[int, int, list[int]]]:
    """Yield the gene that a move is about, the choice it starts from, and what it sets."""
    for number, gene in enumerate(space.genes):
        choices = resolution_choices.tolist() if number == 0 else range(len(gene.choices))
        for choice in choices:
            target = [_KEPT] * len(space.genes)
            target[number] = choice
            if not gene.name.startswith("depth."):
                yield number, _ANY, target
                continue
            for before in range(len(gene.choices)):
                for variant in _grown(space, gene, before, choice, target):
                    yield number, before, variant


def _grown(
    space: SearchSpace, gene: Gene, before: int, after: int, target: list[int]
) -> Iterator[list[int]]:
    """Yield the variants of a change of depth: several where the stage gets new blocks."""
    if after <= before:
        yield target
        return
    base = space.base_depths[gene.stage]
    new_slots = range(base + int(gene.choices[before]), base + int(gene.choices[after]))
    numbers = {other.name: number for number, other in enumerate(space.genes)}
    names = [name for name, _ in space.block_choices]
    for choices in itertools.product(*(range(len(options)) for _, options in space.block_choices)):
        variant = target.copy()
        for (name, choice), slot in itertools.product(zip(names, choices, strict=True), new_slots):
            variant[numbers[f"{name}.{gene.stage}.{slot}"]] = choice
        yield variant
