from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.search.moves import Moves
from ofa_compile.search.population import score
from ofa_compile.search.problem import SearchProblem
from ofa_compile.search.start import additive_front
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space, search_spaces
from ofa_compile.space.search_space import ABSENT, SearchSpace


class Additive:
    """Accuracy as a sum over the encoding: what the additive model can fit exactly."""

    def __init__(self, space: SearchSpace) -> None:
        self.weights = np.random.default_rng(5).uniform(0.0, 0.01, space.encoding_size)

    def predict_encoded(self, codes: np.ndarray) -> np.ndarray:
        return codes @ self.weights

    def predict(self, architectures: object) -> np.ndarray:
        raise AssertionError("the fast way exists")


@pytest.fixture
def problem(tiny_space: MobileNetSpace) -> SearchProblem:
    return SearchProblem(tiny_space, accuracy=Additive(tiny_space))


def test_moves_are_all_single_changes_and_all_new_blocks(problem: SearchProblem) -> None:
    space = problem.space
    row = space.indices([space.smallest()])
    full = np.where(row == ABSENT, 0, row)
    owner, _, moved = Moves(problem).apply(full)
    assert (owner == 0).all()
    expressed = space.mark_absent(moved)
    single = sum(
        len(gene.choices) - 1
        for gene, value in zip(space.genes, row[0], strict=True)
        if value != ABSENT and not gene.name.startswith("depth.")
    )
    grown = 3 * 2 * 2  # each of three stages gains a block of two kernel sizes and two ratios
    assert len(np.unique(expressed, axis=0)) == single + grown
    for architecture in problem.architectures(expressed):
        space.validate(architecture)


@pytest.mark.parametrize("name", search_spaces())
def test_moves_of_every_space_are_valid_and_differ(name: str) -> None:
    space = search_space(name)
    problem = SearchProblem(space, accuracy=Additive(space))
    base = problem.sample(np.random.default_rng(0), 3)
    owner, _, moved = Moves(problem).apply(base)
    assert (problem.keys(moved) != problem.keys(base)[owner]).all()
    for architecture in problem.architectures(space.mark_absent(moved[::37])):
        space.validate(architecture)


def test_pairs_change_what_two_moves_change(problem: SearchProblem) -> None:
    rng = np.random.default_rng(0)
    parents = score(problem, problem.sample(rng, 2))
    moves = Moves(problem)
    owner, move, moved = moves.apply(parents.genotypes)
    singles = score(problem, moved)
    start, pairs = moves.combine(parents, owner, move, singles, lambda values: values[:, 0], 5)
    assert 5 <= len(pairs) <= 10
    assert (parents.genotypes[start] != pairs).sum(axis=1).min() >= 2
    assert (parents.genotypes[1 - start] != pairs).sum() > (parents.genotypes[start] != pairs).sum()
    found = score(problem, pairs)
    # The accuracy is a sum here, so what was promised is what comes out: better than any single.
    assert found.values[:, 0].min() < singles.values[:, 0].min()
    known = set(problem.keys(moved).tolist())
    assert not known & set(problem.keys(pairs).tolist())
    _, both = moves.combine(parents, owner, move, singles, lambda values: values[:, 0], 5, 5)
    assert set(problem.keys(pairs).tolist()) < set(problem.keys(both).tolist())
    triples = both[~np.isin(problem.keys(both), problem.keys(pairs))]
    assert score(problem, triples).values[:, 0].min() < found.values[:, 0].min()
    for row in triples:
        changed = [(space_row != row).sum() for space_row in parents.genotypes]
        assert min(changed) >= 3


def test_triples_are_the_best_of_all_that_go_together(problem: SearchProblem) -> None:
    parents = score(problem, problem.sample(np.random.default_rng(1), 1))
    moves = Moves(problem)
    owner, move, moved = moves.apply(parents.genotypes)
    singles = score(problem, moved)
    everything = 10**6
    _, found = moves.combine(
        parents, owner, move, singles, lambda values: values[:, 0], 0, everything
    )
    best = score(problem, found).values[:, 0].min()
    _, few = moves.combine(parents, owner, move, singles, lambda values: values[:, 0], 0, 3)
    assert score(problem, few).values[:, 0].min() == pytest.approx(best)


def test_keys_tell_all_architectures_apart(problem: SearchProblem, all_rows: np.ndarray) -> None:
    full = np.where(all_rows == ABSENT, 0, all_rows)
    assert len(np.unique(problem.keys(full))) == len(all_rows)
    silent = np.where(all_rows == ABSENT, 1, all_rows)
    np.testing.assert_array_equal(problem.keys(full), problem.keys(silent))


def test_the_additive_front_holds_the_best_of_an_additive_space(
    problem: SearchProblem, all_rows: np.ndarray
) -> None:
    rows = additive_front(problem, np.random.default_rng(0), 400)
    found = score(problem, rows)
    values, _ = problem.score(all_rows)
    assert found.values[:, 0].min() == pytest.approx(values[:, 0].min(), abs=1e-6)
    assert found.values[:, 1].min() == values[:, 1].min()
