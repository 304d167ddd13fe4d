"""Fold batch norm into the convolution before it: `bn(conv(x, w) + b)` → `conv(x, w') + b'`.

Done in float64; what remains in float32 is one rounding per weight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.errors import UnsupportedOperatorError


def fold_batch_norm(graph: Graph) -> None:
    """Fold every batch norm; one without a convolution before it becomes multiply and add."""
    producers, uses = graph.producers(), graph.use_counts()
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "batch_norm":
            nodes.append(node)
            continue
        x = node.inputs[0]
        factor, shift = _affine(node)
        convolution = _foldable(x, producers, uses)
        biased = _bias_before(x, producers, uses)
        if convolution is None and biased is not None:
            x, bias = biased
            convolution = _foldable(x, producers, uses)
            shift = shift + bias * factor
        if convolution is not None:
            weight = np.asarray(convolution.inputs[1].data, np.float64)
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            convolution.inputs[1] = _constant(weight)
            scaled = x
        else:
            x, (factor, shift) = node.inputs[0], _affine(node)
            scaled = Value(x.shape)
            nodes.append(Node("multiply", [x, _per_channel(factor, x)], scaled))
        nodes.append(Node("add", [scaled, _per_channel(shift, x)], node.output))
    graph.nodes = nodes
    graph.remove_dead()


def _affine(node: Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a and b of `bn(x) = a x + b`, per channel."""
    if not all(value.is_constant for value in node.inputs[1:]):
        msg = "a batch norm whose parameters are computed at run time is not supported"
        raise UnsupportedOperatorError(msg)
    parameters = (np.asarray(value.data, np.float64) for value in node.inputs[1:])
    gamma, beta, mean, variance = parameters
    factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return factor, beta - mean * factor


def _foldable(value: Value, producers: dict[int, Node], uses: Any) -> Node | None:
    """Return the convolution with constant weights that makes `value` for one reader alone."""
    node = producers.get(value.id)
    if node is None or node.op != "conv2d" or uses[value.id] != 1:
        return None
    return node if node.inputs[1].is_constant else None


def _bias_before(
    value: Value, producers: dict[int, Node], uses: Any
) -> tuple[Value, NDArray[np.float64]] | None:
    """Match `value = y + b` with one constant per channel; return y and b."""
    node = producers.get(value.id)
    if node is None or node.op != "add" or uses[value.id] != 1:
        return None
    y, bias = node.inputs if node.inputs[1].is_constant else node.inputs[::-1]
    channels = value.shape[1]
    spatial = (1,) * (len(value.shape) - 2)
    if bias.data is None or bias.shape not in ((1, channels, *spatial), (channels, *spatial)):
        return None
    return y, np.asarray(bias.data, np.float64).reshape(channels)


def _constant(data: NDArray[np.float64]) -> Value:
    return Value(data.shape, data.astype(np.float32))


def _per_channel(data: NDArray[np.float64], like: Value) -> Value:
    return _constant(data.reshape(1, -1, *[1] * (len(like.shape) - 2)))
