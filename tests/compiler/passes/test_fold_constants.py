from __future__ import annotations

import numpy as np
from graphs import Builder, ops

from ofa_compile.compiler.passes.fold_constants import fold_constants


def test_folds_chains_of_constants() -> None:
    b = Builder(1, 3)
    weight = b.op("permute_dims", b.draw(5, 3), axes=(1, 0))
    scale = b.op("sqrt", b.constant(np.full((5,), 4.0)))
    scaled = b.op("multiply", weight, scale)
    out = b.op("matmul", b.input, scaled)
    graph = b.graph(out)
    fold_constants(graph)
    assert ops(graph) == ["matmul"]
    assert graph.nodes[0].inputs[1].is_constant
    assert b.unchanged(graph)


def test_leaves_what_depends_on_the_input() -> None:
    b = Builder(1, 3)
    out = b.op("add", b.input, b.op("reshape", b.draw(3, 1), shape=(1, 3)))
    graph = b.graph(out)
    fold_constants(graph)
    assert ops(graph) == ["add"]
    assert b.unchanged(graph)


def test_an_operation_it_cannot_evaluate_stays() -> None:
    b = Builder(1, 3)
    out = b.op("add", b.input, b.op("sigmoid", b.draw(1, 3)))
    graph = b.graph(out)
    fold_constants(graph)
    assert ops(graph) == ["sigmoid", "add"]
