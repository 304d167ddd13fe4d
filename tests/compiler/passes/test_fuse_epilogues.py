from __future__ import annotations

import pytest
from graphs import Builder, ops

from ofa_compile.compiler.graph import Graph
from ofa_compile.compiler.passes.fuse_epilogues import fuse_epilogues
from ofa_compile.compiler.passes.recognise_activations import recognise_activations


def fused(b: Builder, graph: Graph) -> list[str]:
    recognise_activations(graph)
    fuse_epilogues(graph)
    assert b.unchanged(graph)
    return ops(graph)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
def test_bias_residual_and_activation(shape: tuple[int, ...]) -> None:
    b = Builder(1, 4, 6, 6)
    biased = b.op("add", b.conv(b.input, 4), b.draw(*shape))
    graph = b.graph(b.op("relu", b.op("add", b.input, biased)))
    assert fused(b, graph) == ["convolution"]
    (node,) = graph.nodes
    assert node.attrs["activation"] == "relu"
    assert node.attrs["residual"]
    assert node.attrs["bias"].any()
    assert len(node.inputs) == 2


def test_without_anything_behind_it_the_bias_is_zero() -> None:
    b = Builder(1, 3, 6, 6)
    graph = b.graph(b.conv(b.input, 4))
    assert fused(b, graph) == ["convolution"]
    assert not graph.nodes[0].attrs["bias"].any()


def test_depthwise_takes_no_residual() -> None:
    b = Builder(1, 4, 6, 6)
    graph = b.graph(b.op("add", b.conv(b.input, 4, groups=4), b.input))
    assert fused(b, graph) == ["convolution", "add"]


def test_sum_of_two_convolutions() -> None:
    b = Builder(1, 4, 6, 6)
    first = b.op("add", b.conv(b.input, 5), b.draw(1, 5, 1, 1))
    second = b.op("add", b.conv(b.input, 5, 1), b.draw(1, 5, 1, 1))
    graph = b.graph(b.op("relu", b.op("add", first, second)))
    assert fused(b, graph) == ["convolution", "convolution"]
    assert [len(node.inputs) for node in graph.nodes] == [1, 2]


def test_residual_computed_after_the_convolution() -> None:
    b = Builder(1, 4, 6, 6)
    early = b.conv(b.input, 4)
    late = b.op("sigmoid", b.input)
    graph = b.graph(b.op("add", early, late))
    assert fused(b, graph) == ["sigmoid", "convolution"]


def test_a_value_with_two_readers_is_not_swallowed() -> None:
    b = Builder(1, 4, 6, 6)
    x = b.conv(b.input, 4)
    graph = b.graph(b.op("add", b.op("relu", x), b.op("sigmoid", x)))
    assert fused(b, graph) == ["convolution", "relu", "sigmoid", "add"]


def test_twice_the_same_value() -> None:
    b = Builder(1, 4, 6, 6)
    x = b.conv(b.input, 4)
    graph = b.graph(b.op("add", x, x))
    assert fused(b, graph) == ["convolution", "add"]


def test_the_output_of_the_network_is_not_swallowed() -> None:
    b = Builder(1, 4, 6, 6)
    x = b.conv(b.input, 4)
    b.op("relu", x)
    graph = b.graph(x)
    assert fused(b, graph) == ["convolution"]
    assert "activation" not in graph.nodes[0].attrs


def test_a_constant_map_is_neither_bias_nor_residual() -> None:
    b = Builder(1, 4, 6, 6)
    graph = b.graph(b.op("add", b.conv(b.input, 4), b.draw(1, 4, 6, 6)))
    assert fused(b, graph) == ["convolution", "add"]


@pytest.mark.parametrize(
    "attrs",
    [{"groups": 2}, {"dilation": (2, 2), "padding": (2,) * 4}, {"groups": 4, "channels": 8}],
    ids=["grouped", "dilated", "multiplier"],
)
def test_leaves_convolutions_without_a_kernel(attrs: dict[str, object]) -> None:
    b = Builder(1, 4, 6, 6)
    channels = int(str(attrs.pop("channels", 4)))
    graph = b.graph(b.op("relu", b.conv(b.input, channels, **attrs)))
    assert fused(b, graph) == ["conv2d", "relu"]


def test_dense_layer() -> None:
    b = Builder(2, 6)
    product = b.op("matmul", b.input, b.draw(6, 5))
    graph = b.graph(b.op("relu", b.op("add", product, b.draw(5))))
    assert fused(b, graph) == ["dense"]
    assert graph.nodes[0].attrs["weight"].shape == (5, 6)


def test_leaves_products_of_two_computed_matrices() -> None:
    b = Builder(3, 3)
    graph = b.graph(b.op("matmul", b.input, b.op("sigmoid", b.input)))
    assert fused(b, graph) == ["sigmoid", "matmul"]
