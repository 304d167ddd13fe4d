"""Squeeze-excite: scale the map, or the weights of the convolution that reads it.

`multiply(x, gate)` with a gate per channel → `scale_channels(x, gate)`; if only a pointwise
convolution reads the product and the map has more positions than that convolution has outputs →
`convolution(x, ..., scale=gate)`, which multiplies the smaller of the two.
"""

from __future__ import annotations

from ofa_compile.compiler.graph import Graph, Node


def place_scales(graph: Graph) -> None:
    """Recognise per-channel gates and put each where it costs least."""
    for node in graph.nodes:
        gate = _gate(node)
        if gate is not None:
            other = node.inputs[1 - gate]
            node.op, node.inputs = "scale_channels", [other, node.inputs[gate]]
    for node in list(graph.nodes):
        if node.op == "scale_channels":
            _move_into_weights(graph, node)


def _gate(node: Node) -> int | None:
    """Return which input of a `multiply` is a gate of shape (N, C, 1, 1)."""
    if node.op != "multiply" or any(v.is_constant for v in node.inputs):
        return None
    for index in (0, 1):
        gate, other = node.inputs[index], node.inputs[1 - index]
        if len(other.shape) == 4 and gate.shape == (*other.shape[:2], 1, 1):
            return index
    return None


def _move_into_weights(graph: Graph, node: Node) -> None:
    readers = [n for n in graph.nodes if any(v is node.output for v in n.inputs)]
    if len(readers) != 1 or graph.output is node.output:
        return
    (reader,) = readers
    x, gate = node.inputs
    batch, _, height, width = x.shape
    is_data = reader.inputs[0] is node.output and reader.inputs.count(node.output) == 1
    if not is_data or not is_pointwise(reader) or batch != 1:
        return
    if height * width > reader.attrs["weight"].shape[0]:
        reader.inputs = [x, gate, *reader.inputs[1:]]
        reader.attrs["scale"] = True
        graph.nodes.remove(node)


def is_pointwise(node: Node) -> bool:
    """Whether a fused convolution is a plain matrix product over positions."""
    if node.op != "convolution" or node.attrs["groups"] != 1:
        return False
    unit = tuple(node.attrs["strides"]) == (1, 1) and not any(node.attrs["padding"])
    return unit and node.attrs["weight"].shape[2:] == (1, 1)
