from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.compiler.int8.evaluate import evaluate
from ofa_compile.compiler.int8.quantise import can_be_int8, quantise
from ofa_compile.compiler.int8.ranges import observe_ranges
from ofa_compile.compiler.int8.reference import compute_quantised
from ofa_compile.errors import DataError, UnsupportedOperatorError

Images = NDArray[np.float32]


def node(weight: tuple[int, ...], groups: int = 1, op: str = "convolution") -> Node:
    channels = weight[1] * groups
    attrs = {"weight": np.zeros(weight), "groups": groups, "strides": (1, 1), "padding": (0,) * 4}
    x = Value((1, channels, 4, 4) if op == "convolution" else (1, channels))
    return Node(op, [x], Value((1, weight[0], 4, 4)), attrs)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (node((8, 4, 1, 1)), True),
        (node((8, 6, 1, 1)), False),
        (node((10, 4, 1, 1)), False),
        (node((10, 640), op="dense"), False),
        (node((12, 640), op="dense"), True),
        (node((16, 1, 3, 3), 16), True),
        (node((12, 1, 3, 3), 12), False),
        (node((18, 1, 3, 3), 18), False),
        (node((16, 4, 3, 3)), False),
    ],
)
def test_what_can_be_int8(candidate: Node, expected: bool) -> None:
    assert can_be_int8(candidate) is expected


def test_ranges_are_those_of_all_images(graph: Graph, images: Images) -> None:
    whole = observe_ranges(graph, images)[graph.output.id]
    parts = [observe_ranges(graph, images[i : i + 7])[graph.output.id] for i in (0, 7, 14, 21)]
    np.testing.assert_allclose(whole.low, np.min([p.low for p in parts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(whole.high, np.max([p.high for p in parts], axis=0), rtol=1e-5)
    logits = evaluate(graph, images)
    np.testing.assert_allclose(whole.energy, np.square(logits).mean(axis=0), rtol=1e-4)


@pytest.mark.parametrize("shape", [(0, 3, 12, 12), (2, 3, 8, 12)])
def test_images_must_fit(graph: Graph, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"calibration images of shape \(3, 12, 12\)"):
        observe_ranges(graph, np.zeros(shape, np.float32))


def test_values_must_be_finite(graph: Graph, images: Images) -> None:
    images[3, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        observe_ranges(graph, images)


def test_the_quantised_network_is_near_the_float_one(graph: Graph, images: Images) -> None:
    quantised = quantise(graph, observe_ranges(graph, images))
    assert (len(quantised.layers), quantised.num_float_layers) == (6, 1)
    before, after = evaluate(graph, images), compute_quantised(quantised, images)
    change = np.sqrt(np.square(after - before).mean() / np.square(before).mean())
    assert 0.001 < change < 0.05


def test_bytes_stored_as_int8_mean_the_same(graph: Graph, images: Images) -> None:
    quantised = quantise(graph, observe_ranges(graph, images))
    plain, shifted = (compute_quantised(quantised, images, shift) for shift in (0, 128))
    assert np.abs(plain - shifted).max() < 0.02 * np.abs(plain).max()


def test_layers_can_stay_in_float(graph: Graph, images: Images) -> None:
    ranges = observe_ranges(graph, images)
    layers = [node.output.id for node in graph.nodes if can_be_int8(node)]
    none = quantise(graph, ranges, layers)
    assert not none.layers
    assert not none.values
    np.testing.assert_allclose(
        compute_quantised(none, images), evaluate(graph, images), rtol=1e-5, atol=1e-5
    )
    assert quantise(graph, ranges, layers[:2]).num_float_layers == 3


def test_scales_follow_the_channels_where_it_helps(graph: Graph, images: Images) -> None:
    first = next(n for n in graph.nodes if can_be_int8(n))
    ranges = observe_ranges(graph, images)
    seen = ranges[first.inputs[0].id]
    seen.high[0] *= 1000
    scale = quantise(graph, ranges).values[first.inputs[0].id].scale
    assert 1 < scale[0] / scale[1:].max() < 1000


def test_an_unknown_operation_is_named(graph: Graph, images: Images) -> None:
    graph.nodes[-1].op = "softplus"
    with pytest.raises(UnsupportedOperatorError, match=r"softplus is none of .*convolution"):
        evaluate(graph, images)
