"""A graph computed in numpy: to observe ranges on calibration images, and as a reference.

Values are channels-last (N, H, W, C), for any number of images, whatever batch the graph is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Graph, Node
from ofa_compile.compiler.passes.place_scales import is_pointwise
from ofa_compile.errors import UnsupportedOperatorError

Array = NDArray[Any]
Observer = Callable[[int, Array], None]
"""Called with the id of each computed value and what it holds."""

_RESHAPES = ("reshape", "flatten", "squeeze", "expand_dims")


def evaluate(graph: Graph, x: Array, observe: Observer | None = None) -> Array:
    """Compute a fused graph's output in float32.

    Parameters
    ----------
    graph
        After the passes.
    x
        float32 inputs of shape (N, C, H, W).
    observe
        Sees every value as it is computed.

    Raises
    ------
    UnsupportedOperatorError
        If the graph has an operation that numpy does not compute here.
    """
    values: dict[int, Array] = {graph.input.id: channels_last(x)}
    last_use = {v.id: node for node in graph.nodes for v in node.inputs}
    for node in graph.nodes:
        inputs = [values[v.id] if v.data is None else constant(v.data) for v in node.inputs]
        result = compute(node, inputs)
        if observe is not None:
            observe(node.output.id, result)
        values[node.output.id] = result
        for value in node.inputs:
            if last_use[value.id] is node and value is not graph.output:
                values.pop(value.id, None)
    return channels_first(values[graph.output.id])


def channels_last(x: Array) -> Array:
    """(N, C, H, W) → (N, H, W, C); other ranks as they are."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def channels_first(x: Array) -> Array:
    """(N, H, W, C) → (N, C, H, W); other ranks as they are."""
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x


def constant(data: Array) -> Array:
    """Return a constant of the graph as `compute` wants it."""
    return channels_last(data)


def compute(node: Node, inputs: list[Array]) -> Array:
    """Compute one operation in float32."""
    if node.op in _RESHAPES:
        whole = channels_first(inputs[0])
        return channels_last(whole.reshape(len(whole), *node.output.shape[1:]))
    function = _FUNCTIONS.get(node.op)
    if function is None:
        known = ", ".join(sorted((*_FUNCTIONS, *_RESHAPES)))
        msg = f"int8 needs to compute every operation in numpy, and {node.op} is none of {known}"
        raise UnsupportedOperatorError(msg, hint="compile with --precision fp32")
    result: Array = function(node, inputs)
    return result


def windows(x: Array, node: Node, kernel: tuple[int, ...], fill: Any = 0) -> Iterator[Array]:
    """Yield what each tap of a window sees, of shape (N, out_height, out_width, C)."""
    top, left, bottom, right = node.attrs["padding"]
    batch, height, width, channels = x.shape
    padded = np.empty((batch, height + top + bottom, width + left + right, channels), x.dtype)
    padded[...] = fill
    padded[:, top : top + height, left : left + width] = x
    (step, skip), (rows, columns) = node.attrs["strides"], node.output.shape[2:]
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            yield padded[
                :, i : i + (rows - 1) * step + 1 : step, j : j + (columns - 1) * skip + 1 : skip
            ]


def activate(x: Array, activation: str) -> Array:
    """Apply an activation."""
    if activation == "none":
        return x
    if activation == "relu":
        return np.maximum(x, 0)
    if activation == "relu6":
        return np.clip(x, 0, 6)
    gate: Array = np.clip(x * np.float32(1 / 6) + np.float32(0.5), 0, 1)
    return gate if activation == "hsigmoid" else x * gate


def _convolution(node: Node, inputs: list[Array]) -> Array:
    x, *others = inputs
    weight = node.attrs["weight"]
    if node.attrs.get("scale"):
        x = x * others.pop(0)
    if is_pointwise(node):
        total = x @ weight[:, :, 0, 0].T
    elif node.attrs["groups"] == 1:
        taps = weight.reshape(*weight.shape[:2], -1)
        total = sum(
            tap @ taps[:, :, i].T for i, tap in enumerate(windows(x, node, weight.shape[2:]))
        )
    else:
        taps = weight.reshape(len(weight), -1)
        total = sum(tap * taps[:, i] for i, tap in enumerate(windows(x, node, weight.shape[2:])))
    total = total + node.attrs["bias"]
    for residual in others:
        total = total + residual
    return activate(total, node.attrs.get("activation", "none"))


def _dense(node: Node, inputs: list[Array]) -> Array:
    total = inputs[0] @ node.attrs["weight"].T + node.attrs["bias"]
    return activate(total, node.attrs.get("activation", "none"))


def _pool(node: Node, inputs: list[Array]) -> Array:
    is_max = node.op == "max_pool2d"
    kernel = tuple(node.attrs["pool_size"])
    fill = -np.inf if is_max else 0
    taps = list(windows(inputs[0], node, kernel, fill))
    if is_max:
        return np.asarray(np.max(taps, axis=0))
    total: Array = np.sum(taps, axis=0)
    if node.attrs.get("count_include_pad"):
        return total / np.float32(len(taps))
    ones = np.ones((1, *inputs[0].shape[1:3], 1), np.float32)
    counts: Array = np.sum(list(windows(ones, node, kernel)), axis=0)
    return total / counts


_FUNCTIONS: dict[str, Callable[[Node, list[Array]], Array]] = {
    "convolution": _convolution,
    "dense": _dense,
    "global_pool": lambda node, inputs: inputs[0].mean(axis=(1, 2), keepdims=True),
    "scale_channels": lambda node, inputs: inputs[0] * inputs[1],
    "activation": lambda node, inputs: activate(inputs[0], node.attrs["name"]),
    "add": lambda node, inputs: inputs[0] + inputs[1],
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
}
