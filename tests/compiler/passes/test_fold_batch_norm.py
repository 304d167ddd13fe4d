from __future__ import annotations

import pytest
from graphs import Builder, ops

from ofa_compile.compiler.passes.fold_batch_norm import fold_batch_norm
from ofa_compile.errors import UnsupportedOperatorError


def test_folds_into_the_convolution() -> None:
    b = Builder(1, 3, 6, 6)
    graph = b.graph(b.batch_norm(b.conv(b.input, 4)))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "add"]
    assert b.unchanged(graph)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
@pytest.mark.parametrize("bias_first", [True, False])
def test_folds_behind_a_bias(shape: tuple[int, ...], bias_first: bool) -> None:
    b = Builder(1, 3, 6, 6)
    operands = [b.conv(b.input, 4), b.draw(*shape)]
    graph = b.graph(b.batch_norm(b.op("add", *operands[:: -1 if bias_first else 1])))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "add"]
    assert b.unchanged(graph)


def test_folds_into_depthwise_weights() -> None:
    b = Builder(1, 4, 6, 6)
    graph = b.graph(b.batch_norm(b.conv(b.input, 4, groups=4)))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "add"]
    assert b.unchanged(graph)


def test_two_in_a_row() -> None:
    b = Builder(1, 3, 6, 6)
    graph = b.graph(b.batch_norm(b.batch_norm(b.conv(b.input, 4))))
    fold_batch_norm(graph)
    assert b.unchanged(graph)


def test_a_convolution_with_another_reader_keeps_its_weights() -> None:
    b = Builder(1, 3, 6, 6)
    shared = b.conv(b.input, 4)
    graph = b.graph(b.op("add", b.batch_norm(shared), shared))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "multiply", "add", "add"]
    assert b.unchanged(graph)


def test_a_bias_with_another_reader_keeps_the_weights() -> None:
    b = Builder(1, 3, 6, 6)
    shared = b.op("add", b.conv(b.input, 4), b.draw(1, 4, 1, 1))
    graph = b.graph(b.op("add", b.batch_norm(shared), shared))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "add", "multiply", "add", "add"]
    assert b.unchanged(graph)


def test_weights_shared_by_two_convolutions_stay_apart() -> None:
    b = Builder(1, 3, 6, 6)
    weight = b.draw(4, 3, 1, 1)
    attrs = {"strides": (1, 1), "padding": (0,) * 4, "dilation": (1, 1), "groups": 1}
    first = b.batch_norm(b.op("conv2d", b.input, weight, **attrs))
    second = b.batch_norm(b.op("conv2d", b.input, weight, **attrs))
    graph = b.graph(b.op("add", first, second))
    fold_batch_norm(graph)
    assert ops(graph).count("multiply") == 0
    assert b.unchanged(graph)


def test_without_a_convolution_it_becomes_multiply_and_add() -> None:
    b = Builder(1, 3, 6, 6)
    graph = b.graph(b.batch_norm(b.op("relu", b.input)))
    fold_batch_norm(graph)
    assert ops(graph) == ["relu", "multiply", "add"]
    assert b.unchanged(graph)


def test_an_added_map_is_no_bias() -> None:
    b = Builder(1, 3, 6, 6)
    graph = b.graph(b.batch_norm(b.op("add", b.conv(b.input, 3), b.input)))
    fold_batch_norm(graph)
    assert ops(graph) == ["conv2d", "add", "multiply", "add"]
    assert b.unchanged(graph)


def test_parameters_known_only_at_run_time_are_refused() -> None:
    b = Builder(1, 3, 6, 6)
    mean = b.op("reshape", b.op("mean", b.input, axis=(2, 3)), shape=(3,))
    out = b.op("batch_norm", b.input, b.draw(3), b.draw(3), mean, [1.0, 1, 1], epsilon=1e-5)
    with pytest.raises(UnsupportedOperatorError, match=r"batch norm .* run time"):
        fold_batch_norm(b.graph(out))
