from __future__ import annotations

from graphs import Builder, ops

from ofa_compile.compiler.passes.recognise_pools import recognise_pools


def test_mean_over_both_axes() -> None:
    for axis in ((2, 3), (-1, -2)):
        b = Builder(1, 3, 4, 5)
        graph = b.graph(b.op("mean", b.input, axis=axis, keepdims=True))
        recognise_pools(graph)
        assert ops(graph) == ["global_pool"]
        assert b.unchanged(graph)


def test_mean_that_drops_the_axes_keeps_a_reshape() -> None:
    b = Builder(2, 3, 4, 5)
    graph = b.graph(b.op("mean", b.input, axis=(2, 3), keepdims=False))
    recognise_pools(graph)
    assert ops(graph) == ["global_pool", "reshape"]
    assert b.unchanged(graph)


def test_adaptive_and_whole_windows() -> None:
    b = Builder(1, 3, 4, 5)
    graph = b.graph(b.op("adaptive_avg_pool2d", b.input))
    recognise_pools(graph)
    assert ops(graph) == ["global_pool"]
    b = Builder(1, 3, 4, 5)
    graph = b.graph(b.op("avg_pool2d", b.input, pool_size=(4, 5), padding=(0, 0, 0, 0)))
    recognise_pools(graph)
    assert ops(graph) == ["global_pool"]
    assert b.unchanged(graph)


def test_leaves_other_means() -> None:
    for axis in ((1,), (2,), (1, 2, 3)):
        b = Builder(1, 3, 4, 5)
        graph = b.graph(b.op("mean", b.input, axis=axis, keepdims=True))
        recognise_pools(graph)
        assert ops(graph) == ["mean"]
    b = Builder(1, 3, 4, 5)
    graph = b.graph(b.op("avg_pool2d", b.input, pool_size=(2, 5), padding=(0, 0, 0, 0)))
    recognise_pools(graph)
    assert ops(graph) == ["avg_pool2d"]
