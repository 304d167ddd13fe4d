"""Squeeze-excite: scale the map, or the weights of the convolution that reads it.

`multiply(x, gate)` with a gate per channel → `scale_channels(x, gate)`; if only a pointwise
convolution reads the product and the map has more positions than that convolution has outputs →
`convolution(x, ..., scale=gate)`, which multiplies the smaller of the two.
"""

from __future__ import annotations

from collections.abc import Callable

from ofa_compile.compiler.graph import Graph, Node


def place_scales(graph: Graph) -> None:
    """Recognise per-channel gates and put each where it costs a CPU least."""
    _place(graph, _scales_fewer_weights)


def gate_products(graph: Graph) -> None:
    """Recognise per-channel gates and let the convolution apply each as it reads the map.

    What a GPU does: reading a gate beside the map costs it nothing, a pass of its own does.
    """
    _place(graph, lambda node, reader: True)


def keep_scales(graph: Graph) -> None:
    """Recognise per-channel gates and leave each where it is: int8 weights take no factors."""
    _place(graph, lambda node, reader: False)


def _place(graph: Graph, pays: Callable[[Node, Node], bool]) -> None:
    for node in graph.nodes:
        gate = _gate(node)
        if gate is not None:
            other = node.inputs[1 - gate]
            node.op, node.inputs = "scale_channels", [other, node.inputs[gate]]
    for node in list(graph.nodes):
        reader = pointwise_reader(graph, node) if node.op == "scale_channels" else None
        if reader is not None and pays(node, reader):
            reader.inputs = [*node.inputs, *reader.inputs[1:]]
            reader.attrs["scale"] = True
            graph.nodes.remove(node)


def _scales_fewer_weights(node: Node, reader: Node) -> bool:
    batch, _, height, width = node.inputs[0].shape
    return bool(batch == 1 and height * width > reader.attrs["weight"].shape[0])


def _gate(node: Node) -> int | None:
    """Return which input of a `multiply` is a gate of shape (N, C, 1, 1)."""
    if node.op != "multiply" or any(v.is_constant for v in node.inputs):
        return None
    for index in (0, 1):
        gate, other = node.inputs[index], node.inputs[1 - index]
        if len(other.shape) == 4 and gate.shape == (*other.shape[:2], 1, 1):
            return index
    return None


def pointwise_reader(graph: Graph, node: Node) -> Node | None:
    """Return the pointwise convolution whose map a node's output is, if nothing else reads it."""
    readers = [n for n in graph.nodes if any(v is node.output for v in n.inputs)]
    if len(readers) != 1 or graph.output is node.output:
        return None
    (reader,) = readers
    is_data = reader.inputs[0] is node.output and reader.inputs.count(node.output) == 1
    return reader if is_data and is_pointwise(reader) else None


def is_pointwise(node: Node) -> bool:
    """Whether a fused convolution is a plain matrix product over positions."""
    if node.op != "convolution" or node.attrs["groups"] != 1:
        return False
    unit = tuple(node.attrs["strides"]) == (1, 1) and not any(node.attrs["padding"])
    return unit and node.attrs["weight"].shape[2:] == (1, 1)
