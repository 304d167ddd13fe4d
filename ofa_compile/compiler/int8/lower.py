"""Quantised graph -> plan: bytes are one more form in which a value may lie, beside its layouts."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.graph import Node, Value
from ofa_compile.compiler.int8.epilogue import Layer
from ofa_compile.compiler.int8.quantise import QuantisedGraph, is_depthwise
from ofa_compile.compiler.kernel_registry import Machine
from ofa_compile.compiler.lower import ChooseConfig, Lowering
from ofa_compile.compiler.plan import Plan, Ref
from ofa_compile.compiler.workload import (
    DepthwiseInt8,
    Dequantise,
    GlobalPoolInt8,
    PointwiseInt8,
    Quantise,
    ScaleChannelsInt8,
)

BYTES = "nhwc bytes"


def lower_int8(quantised: QuantisedGraph, machine: Machine, choose_config: ChooseConfig) -> Plan:
    """Turn a quantised graph into a plan.

    Raises
    ------
    CompilationError
        If an operation has neither a kernel nor a generic lowering.
    """
    plan = Int8Lowering(quantised, machine, choose_config).run()
    plan.layers = {"int8": len(quantised.layers), "fp32": quantised.num_float_layers}
    return plan


class Int8Lowering(Lowering):
    """Lowers quantised layers to the kernels for bytes and everything else as in float."""

    def __init__(
        self, quantised: QuantisedGraph, machine: Machine, choose_config: ChooseConfig
    ) -> None:
        super().__init__(quantised.graph, machine, choose_config)
        self.quantised = quantised

    def put(self, value: Value, ref: Ref, layout: str) -> None:
        """Note where a value lies; bytes are always channels-last."""
        if layout == BYTES:
            self.places[value.id, BYTES] = ref
        else:
            super().put(value, ref, layout)

    def read(self, value: Value, layout: str) -> Ref:
        """Return the value in a layout or as bytes, converted where it exists only otherwise."""
        quantisation = self.quantised.values.get(value.id)
        if layout == BYTES and not self.has(value, BYTES):
            workload: Any = Quantise(*_rows_and_channels(value))
            source = super().read(value, "nhwc")
            ref = self.call(workload, [source], value.size, {"output": quantisation}, 1)
            self.put(value, ref, BYTES)
        elif layout != BYTES and self.has(value, BYTES) and not self._has_floats(value):
            workload = Dequantise(*_rows_and_channels(value))
            source = self.places[value.id, BYTES]
            ref = self.call(workload, [source], value.size, {"input": quantisation})
            self.put(value, ref, "nhwc")
        return self.places[value.id, BYTES] if layout == BYTES else super().read(value, layout)

    def _has_floats(self, value: Value) -> bool:
        return self.has(value, "nhwc") or self.has(value, "nchw")

    def _call_bytes(self, node: Node, workload: Any, inputs: list[Ref], constants: Any) -> bool:
        """Append a step whose result is stored as bytes where the value is, else as floats."""
        is_bytes = node.output.id in self.quantised.values
        size = node.output.size
        ref = self.call(workload, inputs, size, constants, 1 if is_bytes else 4)
        self.put(node.output, ref, BYTES if is_bytes else "nhwc")
        return True

    def _convolution(self, node: Node) -> bool:
        layer = self.quantised.layers.get(node.output.id)
        if layer is None:
            return super()._convolution(node)
        if not is_depthwise(node):
            return self._product(node, layer)
        batch, channels, height, width = node.inputs[0].shape
        workload = DepthwiseInt8(
            batch=batch,
            height=height,
            width=width,
            channels=channels,
            kernel=node.attrs["weight"].shape[2:],
            stride=tuple(node.attrs["strides"]),
            padding=tuple(node.attrs["padding"]),
            activation=layer.activation,  # type: ignore[arg-type]
        )
        x = self.read(node.inputs[0], BYTES)
        return self._call_bytes(node, workload, [x], {"layer": layer})

    def _dense(self, node: Node) -> bool:
        layer = self.quantised.layers.get(node.output.id)
        return super()._dense(node) if layer is None else self._product(node, layer)

    def _product(self, node: Node, layer: Layer) -> bool:
        rows, channels = _rows_and_channels(node.inputs[0])
        workload = PointwiseInt8(
            rows=rows,
            in_channels=channels,
            out_channels=node.output.shape[1],
            activation=layer.activation,  # type: ignore[arg-type]
            has_residual=layer.residual is not None,
            writes="floats" if layer.output is None else "bytes",
        )
        inputs = [self.read(value, BYTES) for value in node.inputs]
        return self._call_bytes(node, workload, inputs, {"layer": layer})

    def _global_pool(self, node: Node) -> bool:
        x = node.inputs[0]
        if not self.has(x, BYTES):
            return super()._global_pool(node)
        batch, channels, height, width = x.shape
        workload = GlobalPoolInt8(batch, height * width, channels)
        constants = {"input": self.quantised.values[x.id]}
        ref = self.call(workload, [self.read(x, BYTES)], node.output.size, constants)
        self.put(node.output, ref, "nhwc")
        return True

    def _scale_channels(self, node: Node) -> bool:
        x, gate = node.inputs
        if node.output.id not in self.quantised.values:
            return super()._scale_channels(node)
        batch, channels, height, width = x.shape
        workload = ScaleChannelsInt8(batch, height * width, channels)
        values = self.quantised.values
        constants = {"input": values[x.id], "output": values[node.output.id]}
        inputs = [self.read(x, BYTES), self.read(gate, "nhwc")]
        return self._call_bytes(node, workload, inputs, constants)


def _rows_and_channels(value: Value) -> tuple[int, int]:
    channels = value.shape[1]
    return value.size // channels, channels
