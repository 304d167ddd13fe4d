from __future__ import annotations

from graphs import Builder, ops


def test_use_counts_include_the_output() -> None:
    b = Builder(1, 2)
    x = b.op("sigmoid", b.input)
    y = b.op("add", x, x)
    graph = b.graph(y)
    counts = graph.use_counts()
    assert (counts[b.input.id], counts[x.id], counts[y.id]) == (1, 2, 1)


def test_remove_dead_keeps_what_is_needed() -> None:
    b = Builder(1, 2)
    x = b.op("sigmoid", b.input)
    dead = b.op("add", x, 1.0)
    b.op("multiply", dead, 2.0)
    graph = b.graph(b.op("divide", x, 2.0))
    graph.remove_dead()
    assert ops(graph) == ["sigmoid", "divide"]


def test_replace_reaches_readers_and_the_output() -> None:
    b = Builder(1, 2)
    x = b.op("sigmoid", b.input)
    y = b.op("add", x, x)
    graph = b.graph(y)
    graph.replace(x, b.input)
    assert graph.nodes[-1].inputs == [b.input, b.input]
    graph.replace(y, x)
    assert graph.output is x


def test_producers_and_sizes() -> None:
    b = Builder(2, 3, 4, 5)
    x = b.op("relu", b.input)
    assert b.graph(x).producers() == {x.id: b.nodes[0]}
    assert (x.size, x.is_constant) == (120, False)
    assert b.draw(3).is_constant
