"""Decide what becomes bytes, and with which scales.

A layer is quantised when its sums can be taken four bytes at a time; a value is stored as bytes
when a quantised layer reads it. Scales are per channel: a depthwise convolution, a pool and a gate
treat channels apart anyway, and a layer that mixes channels has its input's scales folded into its
weights, as far as the weights' own rounding allows (the balance of SmoothQuant, Xiao et al. 2023,
found per value by the noise that either side adds).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.compiler.int8.epilogue import Layer
from ofa_compile.compiler.int8.ranges import Range
from ofa_compile.compiler.int8.scheme import (
    LEVELS,
    MAX_WEIGHT,
    Doubles,
    Int8Weight,
    Quantisation,
    quantisation_of,
    quantise_weight,
)
from ofa_compile.compiler.passes.place_scales import is_pointwise

# Sums take four input channels, or kernel rows, at a time; vectors hold at least four outputs.
GROUP = 4
# A depthwise convolution works on sixteen channels at least.
DEPTHWISE_CHANNELS = 16
# How much of the ranges' differences the scales follow: 0 for one scale, 1 for one per channel.
_BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class QuantisedGraph:
    """A graph, and what of it is quantised.

    Attributes
    ----------
    graph
        Operations and values.
    values
        Quantisation of every value that is stored as bytes, by its id.
    layers
        Every quantised layer, by the id of its output.
    """

    graph: Graph
    values: dict[int, Quantisation] = field(default_factory=dict)
    layers: dict[int, Layer] = field(default_factory=dict)

    @property
    def num_float_layers(self) -> int:
        """Convolutions and dense layers that stay in float."""
        return sum(is_layer(node) for node in self.graph.nodes) - len(self.layers)


def is_layer(node: Node) -> bool:
    """Whether a node has weights."""
    return node.op in ("convolution", "dense")


def is_depthwise(node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    return node.op == "convolution" and node.attrs["groups"] != 1


def can_be_int8(node: Node) -> bool:
    """Whether the kernels for bytes serve a node."""
    if not is_layer(node) or node.attrs.get("scale"):
        return False
    outputs = node.attrs["weight"].shape[0]
    if is_depthwise(node):
        return bool(outputs >= DEPTHWISE_CHANNELS and outputs % GROUP == 0)
    if node.op == "convolution" and not is_pointwise(node):
        return False
    return bool(node.attrs["weight"].shape[1] % GROUP == 0 and outputs % GROUP == 0)


def quantise(
    graph: Graph, ranges: Mapping[int, Range], float_layers: Collection[int] = ()
) -> QuantisedGraph:
    """Quantise a fused graph.

    Parameters
    ----------
    graph
        After the passes for int8.
    ranges
        Of every value, by its id.
    float_layers
        Ids of the outputs of layers that stay in float.
    """
    chosen = {
        node.output.id: node
        for node in graph.nodes
        if can_be_int8(node) and node.output.id not in float_layers
    }
    result = QuantisedGraph(graph)
    for value in _byte_values(graph, chosen):
        readers = [node for node in chosen.values() if node.inputs[0] is value]
        mixing = [_matrix(node) for node in readers if not is_depthwise(node)]
        result.values[value.id] = _balanced(ranges[value.id], mixing)
    for output, node in chosen.items():
        result.layers[output] = _make_layer(node, result.values)
    return result


def _byte_values(graph: Graph, chosen: Mapping[int, Node]) -> list[Value]:
    """Find the values that are stored as bytes, in the order of the graph."""
    found: dict[int, Value] = {}
    for node in reversed(graph.nodes):
        reads: list[Value] = []
        if node.output.id in chosen:
            reads = node.inputs
        elif node.op == "scale_channels" and node.output.id in found:
            reads = node.inputs[:1]
        found |= {value.id: value for value in reads if not value.is_constant}
    return list(found.values())[::-1]


def _matrix(node: Node) -> Doubles:
    weight: NDArray[Any] = node.attrs["weight"]
    return weight.reshape(len(weight), -1).astype(np.float64)


def _balanced(seen: Range, mixing: list[Doubles]) -> Quantisation:
    """Choose the scales that add the least noise to the layers that mix the value's channels."""
    separate = quantisation_of(seen.low, seen.high)
    if not mixing:
        return separate
    largest = separate.scale.max()
    best, least = separate, np.inf
    for balance in _BALANCES:
        scale = separate.scale**balance * largest ** (1 - balance)
        noise = sum(_noise(weight, scale, seen.energy) for weight in mixing)
        if noise < least:
            zero_point = np.clip(np.rint(-np.minimum(seen.low, 0) / scale), 0, LEVELS)
            best, least = Quantisation(scale, zero_point.astype(np.int32)), noise
    return best


def _noise(weight: Doubles, scale: Doubles, energy: Doubles) -> float:
    """Variance that rounding adds to the outputs: of the input, and of the folded weights."""
    folded = weight * scale
    steps = np.abs(folded).max(axis=1) / MAX_WEIGHT
    return float((folded**2).sum() / 12 + (steps**2).sum() / 12 * (energy / scale**2).sum())


def _make_layer(node: Node, values: Mapping[int, Quantisation]) -> Layer:
    source, weight = values[node.inputs[0].id], node.attrs["weight"]
    per_row = (-1, *[1] * (weight.ndim - 1))
    if is_depthwise(node):
        rounded = quantise_weight(weight)
        rounded = Int8Weight(rounded.values, rounded.scale * source.scale)
        input_zero = source.zero_point.reshape(-1, 1)
    else:
        rounded = quantise_weight(weight * source.scale.reshape(1, *per_row[:-1]))
        input_zero = source.zero_point.reshape(1, -1)
    return Layer(
        weight=rounded,
        bias=node.attrs["bias"],
        activation=node.attrs.get("activation", "none"),
        input_zero=input_zero,
        residual=values[node.inputs[1].id] if len(node.inputs) > 1 else None,
        output=values.get(node.output.id),
    )
