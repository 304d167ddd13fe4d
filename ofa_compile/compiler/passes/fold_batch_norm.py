"""Fold batch norm into the convolution before it: `bn(conv(x, w))` → `conv(x, w') + b'`.

Done in float64; what remains in float32 is one rounding per weight.
"""

from __future__ import annotations

import numpy as np

from ofa_compile.compiler.graph import Graph, Node, Value


def fold_batch_norm(graph: Graph) -> None:
    """Fold every batch norm; one without a convolution before it becomes multiply and add."""
    producers, uses = graph.producers(), graph.use_counts()
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "batch_norm":
            nodes.append(node)
            continue
        x, *parameters = node.inputs
        gamma, beta, mean, variance = (np.asarray(v.data, np.float64) for v in parameters)
        factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
        shift = beta - mean * factor
        channels = (1, len(factor)) + (1,) * (len(x.shape) - 2)
        convolution = producers.get(x.id)
        foldable = convolution is not None and convolution.op == "conv2d" and uses[x.id] == 1
        if foldable and convolution is not None and convolution.inputs[1].is_constant:
            weight = np.asarray(convolution.inputs[1].data, np.float64)
            weight = (weight * factor.reshape(-1, 1, 1, 1)).astype(np.float32)
            convolution.inputs[1] = Value(weight.shape, weight)
            scaled = x
        else:
            scaled = Value(x.shape)
            constant = factor.reshape(channels).astype(np.float32)
            nodes.append(Node("multiply", [x, Value(constant.shape, constant)], scaled))
        constant = shift.reshape(channels).astype(np.float32)
        nodes.append(Node("add", [scaled, Value(constant.shape, constant)], node.output))
    graph.nodes = nodes
