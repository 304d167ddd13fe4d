"""The quantised graph in numpy: integer sums exactly, the rest in float32 as the kernels do it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.graph import Node
from ofa_compile.compiler.int8.epilogue import Layer, apply_epilogue, fused, make_epilogue
from ofa_compile.compiler.int8.evaluate import (
    channels_first,
    channels_last,
    compute,
    constant,
    windows,
)
from ofa_compile.compiler.int8.quantise import QuantisedGraph, is_depthwise
from ofa_compile.compiler.int8.scheme import LEVELS, Bytes, Quantisation

Array = NDArray[Any]


def compute_quantised(
    quantised: QuantisedGraph, x: NDArray[np.float32], shift: int = 0
) -> NDArray[np.float32]:
    """Return the logits of a quantised graph on inputs of shape (N, C, H, W).

    `shift` is what the target subtracts from bytes to store them as int8. In exact numbers it
    would not matter; in float32, epilogues round otherwise, and one value that tips from one byte
    to the next tips others behind it.
    """
    return Reference(quantised, shift).run(x)


class Reference:
    """Runs a quantised graph; a value exists as bytes, as floats, or made from one another."""

    def __init__(self, quantised: QuantisedGraph, shift: int = 0) -> None:
        self.quantised, self.shift = quantised, shift
        self.floats: dict[int, Array] = {}
        self.bytes: dict[int, Bytes] = {}

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the output."""
        graph = self.quantised.graph
        self.floats, self.bytes = {graph.input.id: channels_last(x)}, {}
        for node in graph.nodes:
            self._compute(node)
        return channels_first(self._read_floats(graph.output.id))

    def _compute(self, node: Node) -> None:
        output = node.output.id
        layer = self.quantised.layers.get(output)
        if layer is not None:
            self._put(output, self._layer(node, layer))
        elif node.op == "global_pool" and node.inputs[0].id in self.bytes:
            source = self.quantised.values[node.inputs[0].id]
            self.floats[output] = _pool(self.bytes[node.inputs[0].id], source, self.shift)
        elif node.op == "scale_channels" and output in self.quantised.values:
            self._put(output, self._gated(node))
        else:
            inputs = [
                constant(v.data) if v.data is not None else self._read_floats(v.id)
                for v in node.inputs
            ]
            self.floats[output] = compute(node, inputs)

    def _put(self, value: int, steps: Array) -> None:
        if value in self.quantised.values:
            self.bytes[value] = np.clip(np.rint(steps) + self.shift, 0, LEVELS).astype(np.uint8)
        else:
            self.floats[value] = steps

    def _read_bytes(self, value: int) -> Bytes:
        if value not in self.bytes:
            self.bytes[value] = self.quantised.values[value].to_bytes(self.floats[value])
        return self.bytes[value]

    def _read_floats(self, value: int) -> Array:
        if value not in self.floats:
            self.floats[value] = self.quantised.values[value].to_floats(self.bytes[value])
        return self.floats[value]

    def _layer(self, node: Node, layer: Layer) -> Array:
        x = self._stored(node.inputs[0].id)
        weight = layer.weight.values.reshape(len(layer.bias), -1).astype(np.float64)
        if is_depthwise(node):
            zero = layer.input_zero.ravel() - self.shift
            taps = windows(x, node, layer.weight.values.shape[2:], zero)
            sums = sum(tap * weight[:, i] for i, tap in enumerate(taps))
        else:
            sums = x.astype(np.float64) @ weight.T
        residual = self._stored(node.inputs[1].id) if layer.residual is not None else None
        epilogue = make_epilogue(layer, self.shift)
        return apply_epilogue(np.asarray(sums), epilogue, layer.activation, residual)

    def _stored(self, value: int) -> Array:
        """Return bytes as the target stores them."""
        return self._read_bytes(value).astype(np.int16) - self.shift

    def _gated(self, node: Node) -> Array:
        data, gate = self._stored(node.inputs[0].id), self._read_floats(node.inputs[1].id)
        source = self.quantised.values[node.inputs[0].id]
        result = self.quantised.values[node.output.id]
        factor = gate * (source.scale / result.scale).astype(np.float32)
        zero = source.zero_point - self.shift
        offset = fused(-zero, factor, result.zero_point - self.shift)
        return fused(data.astype(np.float32), factor, offset)


def _pool(data: Bytes, source: Quantisation, shift: int) -> Array:
    positions = data.shape[1] * data.shape[2]
    sums = (data.astype(np.int64) - shift).sum(axis=(1, 2), keepdims=True).astype(np.float32)
    offset = (-source.scale * (source.zero_point - shift)).astype(np.float32)
    return fused(sums, (source.scale / positions).astype(np.float32), offset)
