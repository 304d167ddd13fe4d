from __future__ import annotations

from collections.abc import Callable

import pytest
from graphs import Builder, ops

from ofa_compile.compiler.graph import Value
from ofa_compile.compiler.passes.recognise_activations import recognise_activations

Spelling = Callable[[Builder, Value], Value]


def relu6_of_shifted(b: Builder, x: Value) -> Value:
    return b.op("clip", b.op("add", x, 3.0), scalars=[0.0, 6.0])


SPELLINGS: dict[str, tuple[str, Spelling]] = {
    "relu": ("relu", lambda b, x: b.op("relu", x)),
    "max": ("relu", lambda b, x: b.op("maximum", x, 0.0)),
    "max-flipped": ("relu", lambda b, x: b.op("maximum", 0.0, x)),
    "clip": ("relu6", lambda b, x: b.op("clip", x, scalars=[0.0, 6.0])),
    "min-max": ("relu6", lambda b, x: b.op("minimum", b.op("maximum", x, 0.0), 6.0)),
    "min-relu": ("relu6", lambda b, x: b.op("minimum", 6.0, b.op("relu", x))),
    "clip-scaled": ("hsigmoid", lambda b, x: b.hard_sigmoid(x)),
    "clip-divided": (
        "hsigmoid",
        lambda b, x: b.op("clip", b.op("add", b.op("divide", x, 6.0), 0.5), scalars=[0.0, 1.0]),
    ),
    "relu6-divided": ("hsigmoid", lambda b, x: b.op("divide", relu6_of_shifted(b, x), 6.0)),
    "relu6-scaled": ("hsigmoid", lambda b, x: b.op("multiply", 1 / 6, relu6_of_shifted(b, x))),
    "x-hsigmoid": ("hswish", lambda b, x: b.op("multiply", x, b.hard_sigmoid(x))),
    "hsigmoid-x": ("hswish", lambda b, x: b.op("multiply", b.hard_sigmoid(x), x)),
    "x-relu6-divided": (
        "hswish",
        lambda b, x: b.op("divide", b.op("multiply", x, relu6_of_shifted(b, x)), 6.0),
    ),
    "relu6-x-scaled": (
        "hswish",
        lambda b, x: b.op("multiply", b.op("multiply", relu6_of_shifted(b, x), x), 1 / 6),
    ),
}


@pytest.mark.parametrize(("name", "spell"), SPELLINGS.values(), ids=SPELLINGS)
def test_names_a_spelling(name: str, spell: Spelling) -> None:
    b = Builder(1, 3, 4, 4)
    graph = b.graph(spell(b, b.input))
    recognise_activations(graph)
    assert ops(graph) == [name]
    assert graph.nodes[0].inputs == [b.input]
    assert b.unchanged(graph)


NEAR_MISSES: dict[str, Spelling] = {
    "slope 0.2": lambda b, x: b.op(
        "clip", b.op("add", b.op("multiply", x, 0.2), 0.5), scalars=[0.0, 1.0]
    ),
    "clip at 1": lambda b, x: b.op("clip", x, scalars=[0.0, 1.0]),
    "clip below 0": lambda b, x: b.op("clip", x, scalars=[-1.0, 6.0]),
    "max with 1": lambda b, x: b.op("maximum", x, 1.0),
    "min alone": lambda b, x: b.op("minimum", x, 6.0),
    "6 / relu6": lambda b, x: b.op("divide", 6.0, b.op("add", b.op("multiply", x, x), 1.0)),
    "max per channel": lambda b, x: b.op("maximum", x, [[[[0.0]], [[0.0]], [[1.0]]]]),
}


@pytest.mark.parametrize("spell", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_leaves_what_only_looks_similar(spell: Spelling) -> None:
    b = Builder(1, 3, 4, 4)
    graph = b.graph(spell(b, b.input))
    before = ops(graph)
    recognise_activations(graph)
    assert ops(graph) == before


def test_a_gate_times_another_map_is_no_hswish() -> None:
    b = Builder(1, 3, 4, 4)
    gate = b.hard_sigmoid(b.op("sigmoid", b.input))
    graph = b.graph(b.op("multiply", b.input, gate))
    recognise_activations(graph)
    assert ops(graph) == ["sigmoid", "hsigmoid", "multiply"]
    assert b.unchanged(graph)


def test_an_inner_value_that_others_read_survives() -> None:
    b = Builder(1, 3, 4, 4)
    gate = b.hard_sigmoid(b.input)
    graph = b.graph(b.op("add", b.op("multiply", b.input, gate), gate))
    recognise_activations(graph)
    assert ops(graph) == ["hsigmoid", "hswish", "add"]
    assert b.unchanged(graph)
