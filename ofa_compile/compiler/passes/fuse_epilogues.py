"""Fuse what follows a convolution or matrix product into it.

`conv2d(x, w)`, then `+ bias`, `+ residual`, `activation` (each optional, in this order) →
`convolution(x, residual?)` with weight, bias and activation as attributes. `matmul` → `dense`.
"""

from __future__ import annotations

import numpy as np

from ofa_compile.compiler.graph import Graph, Node, Value


def fuse_epilogues(graph: Graph) -> None:
    """Fuse every convolution and matrix product that a kernel of ours can serve."""
    for node in list(graph.nodes):
        if _is_ours(node):
            _fuse(graph, node)
    graph.remove_dead()


def _is_ours(node: Node) -> bool:
    if len(node.inputs) < 2 or not node.inputs[1].is_constant or node.inputs[0].is_constant:
        return False
    weight = node.inputs[1]
    if node.op == "matmul":
        return len(node.inputs[0].shape) == 2 and len(weight.shape) == 2
    if node.op != "conv2d" or tuple(node.attrs["dilation"]) != (1, 1):
        return False
    groups = node.attrs["groups"]
    channels = node.inputs[0].shape[1]
    return bool(groups == 1 or groups == channels == weight.shape[0])


def _fuse(graph: Graph, node: Node) -> None:
    weight = np.asarray(node.inputs[1].data, np.float32)
    if node.op == "matmul":
        weight, node.op = weight.T, "dense"
    else:
        node.op = "convolution"
    node.attrs["weight"] = np.ascontiguousarray(weight)
    node.inputs = node.inputs[:1]
    channels = weight.shape[0]
    bias = _absorb_bias(graph, node, channels)
    node.attrs["bias"] = np.zeros(channels, np.float32) if bias is None else bias
    if node.op == "convolution":
        _absorb_residual(graph, node)
    _absorb_activation(graph, node)


def _only_reader(graph: Graph, value: Value) -> Node | None:
    """Return the one node that reads `value`, if there is exactly one and it is not the output."""
    if graph.use_counts()[value.id] != 1:
        return None
    return next((n for n in graph.nodes if any(v is value for v in n.inputs)), None)


def _take_over(graph: Graph, node: Node, reader: Node) -> None:
    """Let `node` compute what `reader` computed, at `reader`'s place in the order."""
    node.output = reader.output
    position = graph.nodes.index(reader)
    graph.nodes.remove(node)
    graph.nodes[position - 1] = node


def _absorb_bias(graph: Graph, node: Node, channels: int) -> np.ndarray | None:
    reader = _only_reader(graph, node.output)
    if reader is None or reader.op != "add":
        return None
    other = reader.inputs[1] if reader.inputs[0] is node.output else reader.inputs[0]
    per_channel = (channels, 1, 1) if node.op == "convolution" else (channels,)
    if other.data is None or other.size != channels:
        return None
    shape = tuple(other.shape)
    if shape not in (per_channel, (1, *per_channel)):
        return None
    _take_over(graph, node, reader)
    return np.asarray(other.data, np.float32).reshape(channels)


def _absorb_residual(graph: Graph, node: Node) -> None:
    reader = _only_reader(graph, node.output)
    if reader is None or reader.op != "add" or "residual" in node.attrs:
        return
    other = reader.inputs[1] if reader.inputs[0] is node.output else reader.inputs[0]
    if other.is_constant or other.shape != node.output.shape or other is node.output:
        return
    if not _kernel_adds_residual(node):
        return
    _take_over(graph, node, reader)
    node.inputs.append(other)
    node.attrs["residual"] = True


def _kernel_adds_residual(node: Node) -> bool:
    return bool(node.attrs["groups"] == 1)


def _absorb_activation(graph: Graph, node: Node) -> None:
    reader = _only_reader(graph, node.output)
    if reader is not None and reader.op == "activation":
        _take_over(graph, node, reader)
        node.attrs["activation"] = reader.attrs["name"]
