"""Evaluate operations whose inputs are all constants: `f(c1, c2)` → `c3`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ofa_compile.compiler.graph import Graph, Node

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "sqrt": np.sqrt,
    "negative": np.negative,
    "isnan": np.isnan,
    "where": np.where,
}


def _evaluate(node: Node) -> Any:
    data: list[Any] = [value.data for value in node.inputs]
    if node.op == "reshape":
        return np.reshape(data[0], node.output.shape)
    if node.op in ("squeeze", "expand_dims", "flatten"):
        return np.reshape(data[0], node.output.shape)
    if node.op == "permute_dims":
        return np.transpose(data[0], node.attrs.get("axes"))
    function = _FUNCTIONS.get(node.op)
    return None if function is None else function(*data)


def fold_constants(graph: Graph) -> None:
    """Fold until nothing changes; inputs of folded operations disappear with them."""
    kept = []
    for node in graph.nodes:
        if all(value.is_constant for value in node.inputs):
            node.output.data = _evaluate(node)
        if not node.output.is_constant:
            kept.append(node)
    graph.nodes = kept
