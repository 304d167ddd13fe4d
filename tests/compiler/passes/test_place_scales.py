from __future__ import annotations

import pytest
from graphs import Builder, ops

from ofa_compile.compiler.graph import Value
from ofa_compile.compiler.passes.fuse_epilogues import fuse_epilogues
from ofa_compile.compiler.passes.place_scales import place_scales


def gate_of(b: Builder, x: Value) -> Value:
    return b.op("sigmoid", b.op("global_pool", x))


def gated_block(size: int, channels: int, out_channels: int, batch: int = 1, kernel: int = 1):
    b = Builder(batch, channels, size, size)
    scaled = b.op("multiply", b.input, gate_of(b, b.input))
    graph = b.graph(b.conv(scaled, out_channels, kernel))
    fuse_epilogues(graph)
    place_scales(graph)
    assert b.unchanged(graph)
    return graph


def test_scales_weights_when_the_map_is_larger() -> None:
    graph = gated_block(size=7, channels=4, out_channels=48)
    assert ops(graph) == ["global_pool", "sigmoid", "convolution"]
    assert graph.nodes[-1].attrs["scale"]
    assert len(graph.nodes[-1].inputs) == 2


@pytest.mark.parametrize(
    "changes",
    [{"out_channels": 49}, {"batch": 2}, {"kernel": 3}],
    ids=["map smaller", "two images", "not pointwise"],
)
def test_scales_the_map_otherwise(changes: dict[str, int]) -> None:
    graph = gated_block(**{"size": 7, "channels": 4, "out_channels": 8, **changes})
    assert ops(graph) == ["global_pool", "sigmoid", "scale_channels", "convolution"]


def test_scales_the_map_when_two_read_it() -> None:
    b = Builder(1, 4, 7, 7)
    scaled = b.op("multiply", gate_of(b, b.input), b.input)
    graph = b.graph(b.op("add", b.conv(scaled, 4, 1), scaled))
    fuse_epilogues(graph)
    place_scales(graph)
    assert "scale_channels" in ops(graph)
    assert b.unchanged(graph)


def test_keeps_a_residual_behind_the_gate() -> None:
    b = Builder(1, 4, 7, 7)
    scaled = b.op("multiply", b.input, gate_of(b, b.input))
    graph = b.graph(b.op("add", b.conv(scaled, 4, 1), b.input))
    fuse_epilogues(graph)
    place_scales(graph)
    assert len(graph.nodes[-1].inputs) == 3
    assert b.unchanged(graph)


def test_the_scaled_map_may_be_the_output() -> None:
    b = Builder(1, 4, 7, 7)
    graph = b.graph(b.op("multiply", b.input, gate_of(b, b.input)))
    place_scales(graph)
    assert ops(graph) == ["global_pool", "sigmoid", "scale_channels"]


def test_a_map_of_one_position_is_scaled_too() -> None:
    graph = gated_block(size=1, channels=4, out_channels=8)
    assert ops(graph) == ["global_pool", "sigmoid", "scale_channels", "convolution"]


def test_leaves_products_of_two_maps() -> None:
    b = Builder(1, 4, 7, 7)
    graph = b.graph(b.op("multiply", b.input, b.op("sigmoid", b.input)))
    place_scales(graph)
    assert ops(graph) == ["sigmoid", "multiply"]
