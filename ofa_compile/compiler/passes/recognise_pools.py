"""Name global average pools: `mean(x, (H, W))`, `adaptive_avg_pool2d(x, 1)` → `global_pool(x)`."""

from __future__ import annotations

from ofa_compile.compiler.graph import Graph, Node, Value


def recognise_pools(graph: Graph) -> None:
    """Replace global pools; one that drops the two axes keeps a reshape behind it."""
    nodes = []
    for node in graph.nodes:
        if not _is_global(node):
            nodes.append(node)
            continue
        x = node.inputs[0]
        pooled = Value((*x.shape[:2], 1, 1))
        keeps = node.output.shape == pooled.shape
        nodes.append(Node("global_pool", [x], node.output if keeps else pooled))
        if not keeps:
            nodes.append(Node("reshape", [pooled], node.output, {"shape": node.output.shape}))
    graph.nodes = nodes


def _is_global(node: Node) -> bool:
    if not node.inputs or len(node.inputs[0].shape) != 4:
        return False
    if node.op == "mean":
        return sorted(axis % 4 for axis in node.attrs.get("axis", ())) == [2, 3]
    if node.op == "adaptive_avg_pool2d":
        return node.output.shape[2:] == (1, 1)
    if node.op == "avg_pool2d":
        whole = tuple(node.attrs.get("pool_size", ())) == node.inputs[0].shape[2:]
        return whole and not any(node.attrs.get("padding", ()))
    return False
