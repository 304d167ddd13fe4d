"""Graphs written by hand, and an interpreter that says what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from ofa_compile.compiler.graph import Graph, Node, Value

_ELEMENTWISE: dict[str, Any] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "scale_channels": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": np.sqrt,
}
_ACTIVATIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}


class Builder:
    """Appends operations to a graph; shapes follow from evaluating it."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.input = Value(shape)
        self.nodes: list[Node] = []
        self.sample = self.rng.standard_normal(shape) * 4
        self.values = {self.input.id: self.sample}

    def constant(self, data: Any) -> Value:
        data = np.asarray(data, np.float32)
        return Value(data.shape, data)

    def draw(self, *shape: int) -> Value:
        return self.constant(self.rng.standard_normal(shape))

    def op(self, name: str, *inputs: Any, **attrs: Any) -> Value:
        operands = [v if isinstance(v, Value) else self.constant(v) for v in inputs]
        node = Node(name, operands, Value(()), attrs)
        result = evaluate_node(node, self.values)
        node.output = Value(result.shape)
        self.values[node.output.id] = result
        self.nodes.append(node)
        return node.output

    def conv(self, x: Value, channels: int, kernel: int = 3, **attrs: Any) -> Value:
        groups = attrs.pop("groups", 1)
        weight = self.draw(channels, x.shape[1] // groups, kernel, kernel)
        half = attrs.pop("padding", (kernel // 2,) * 4)
        dilation = attrs.pop("dilation", (1, 1))
        strides = attrs.pop("strides", (1, 1))
        return self.op(
            "conv2d",
            x,
            weight,
            strides=strides,
            padding=half,
            dilation=dilation,
            groups=groups,
        )

    def batch_norm(self, x: Value) -> Value:
        channels = x.shape[1]
        parameters = [self.draw(channels) for _ in range(3)]
        variance = self.constant(self.rng.random(channels) + 0.5)
        return self.op("batch_norm", x, *parameters, variance, epsilon=1e-3)

    def hard_sigmoid(self, x: Value) -> Value:
        shifted = self.op("add", self.op("multiply", x, 1 / 6), 0.5)
        return self.op("clip", shifted, scalars=[0.0, 1.0])

    def graph(self, output: Value) -> Graph:
        return Graph(self.input, output, list(self.nodes))

    def unchanged(self, graph: Graph) -> bool:
        """Whether a rewritten graph still computes what the one written here did."""
        before = evaluate(Graph(self.input, graph.output, self.nodes), self.sample, self.values)
        after = evaluate(graph, self.sample)
        return before.shape == after.shape and np.allclose(before, after, rtol=1e-4, atol=1e-4)


def ops(graph: Graph) -> list[str]:
    """Return the operations in order; activations by name."""
    return [node.attrs["name"] if node.op == "activation" else node.op for node in graph.nodes]


def evaluate(graph: Graph, x: np.ndarray, known: dict[int, np.ndarray] | None = None) -> np.ndarray:
    """Run a graph in float64, checking that every value is written before it is read."""
    if known is not None:
        return known[graph.output.id]
    values = {graph.input.id: x}
    for node in graph.nodes:
        assert node.output.id not in values, "a value is written twice"
        values[node.output.id] = evaluate_node(node, values)
        assert values[node.output.id].shape == node.output.shape, node.op
    return values[graph.output.id]


def evaluate_node(node: Node, values: dict[int, np.ndarray]) -> np.ndarray:
    inputs = [
        np.asarray(v.data, np.float64) if v.data is not None else values[v.id] for v in node.inputs
    ]
    return np.asarray(_apply(node, inputs))


def _apply(node: Node, inputs: list[np.ndarray]) -> Any:
    attrs = node.attrs
    if node.op in _ELEMENTWISE:
        return _ELEMENTWISE[node.op](*inputs)
    if node.op == "activation":
        return _ACTIVATIONS[attrs["name"]](inputs[0])
    if node.op == "relu":
        return np.maximum(inputs[0], 0)
    if node.op == "clip":
        return np.clip(inputs[0], *attrs["scalars"])
    if node.op == "conv2d":
        return conv2d(inputs[0], inputs[1], attrs)
    if node.op == "matmul":
        return inputs[0] @ inputs[1]
    if node.op == "batch_norm":
        gamma, beta, mean, variance = (p.reshape(1, -1, 1, 1) for p in inputs[1:])
        scale = gamma / np.sqrt(variance + attrs["epsilon"])
        return (inputs[0] - mean) * scale + beta
    if node.op in ("mean", "global_pool"):
        axes = tuple(attrs.get("axis", (2, 3)))
        return inputs[0].mean(axis=axes, keepdims=attrs.get("keepdims", True))
    if node.op == "adaptive_avg_pool2d":
        return inputs[0].mean(axis=(2, 3), keepdims=True)
    if node.op == "avg_pool2d":
        return inputs[0].mean(axis=(2, 3), keepdims=True)
    if node.op == "reshape":
        return inputs[0].reshape(attrs["shape"])
    if node.op == "permute_dims":
        return inputs[0].transpose(attrs["axes"])
    return _fused(node, inputs)


def _fused(node: Node, inputs: list[np.ndarray]) -> Any:
    """Evaluate what `fuse_epilogues` makes."""
    attrs = node.attrs
    x, *others = inputs
    weight = attrs["weight"].astype(np.float64)
    if attrs.get("scale"):
        x = x * others.pop(0)
    if node.op == "dense":
        result = x @ weight.T + attrs["bias"]
    else:
        assert node.op == "convolution", node.op
        result = conv2d(x, weight, attrs) + attrs["bias"].reshape(1, -1, 1, 1)
    for residual in others:
        result = result + residual
    return _ACTIVATIONS[attrs.get("activation", "none")](result)


def conv2d(x: np.ndarray, weight: np.ndarray, attrs: dict[str, Any]) -> np.ndarray:
    """Convolve NCHW `x` with OIHW `weight`."""
    top, left, bottom, right = attrs["padding"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    kernel = weight.shape[2:]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilation"], strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, spans, axis=(2, 3))
    view = view[:, :, :: attrs["strides"][0], :: attrs["strides"][1]]
    view = view[..., :: attrs["dilation"][0], :: attrs["dilation"][1]]
    groups = attrs["groups"]
    parts = zip(np.split(view, groups, 1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in parts], axis=1)
