"""Small ONNX networks, and running what the compiler makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

OPSET = 18


@dataclass
class Net:
    """A chain of operators; every method call appends one and returns its output's name.

    Constants are given as arrays, other inputs by name; `last` is the input to begin with.
    """

    shape: Sequence[int]
    seed: int = 0
    last: str = "input"
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def draw(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape).astype(np.float32)

    def op(self, kind: str, *inputs: str | np.ndarray, **attributes: Any) -> str:
        """Append an operator over `inputs`, or over the last output if there are none."""
        names = [self._name(value) for value in inputs or (self.last,)]
        self.last = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [self.last], **attributes))
        return self.last

    def _name(self, value: str | np.ndarray) -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(
        self, channels: tuple[int, int], kernel: int = 3, bias: bool = True, **attributes: Any
    ) -> str:
        """Append a convolution of (in, out) channels with "same" padding unless told."""
        groups = attributes.get("group", 1)
        weight = self.draw(channels[1], channels[0] // groups, kernel, kernel)
        attributes.setdefault("pads", [kernel // 2] * 4)
        weight /= np.float32(np.sqrt(weight[0].size))
        parameters = [weight, self.draw(channels[1])] if bias else [weight]
        return self.op("Conv", self.last, *parameters, **attributes)

    def batch_norm(self, channels: int) -> str:
        mean, variance = self.draw(channels), np.abs(self.draw(channels)) + np.float32(0.5)
        scale, shift = self.draw(channels), self.draw(channels)
        return self.op("BatchNormalization", self.last, scale, shift, mean, variance)

    def squeeze_excite(self, channels: int, middle: int) -> str:
        """Append the gate of MobileNetV3 and its product with the last output."""
        x = self.last
        self.op("GlobalAveragePool")
        self.conv((channels, middle), 1)
        self.op("Relu")
        self.conv((middle, channels), 1)
        self.op("HardSigmoid", alpha=1 / 6, beta=0.5)
        return self.op("Mul", x, self.last)

    def classifier(self, channels: int, classes: int = 5) -> str:
        self.op("GlobalAveragePool")
        self.op("Flatten")
        weight = self.draw(classes, channels)
        return self.op("Gemm", self.last, weight, self.draw(classes), transB=1)

    def model(self, **changes: Any) -> onnx.ModelProto:
        """Return the model; `changes` replace input type, output shape and the like."""
        kind = changes.pop("input_type", TensorProto.FLOAT)
        shape = changes.pop("input_shape", self.shape)
        inputs = [helper.make_tensor_value_info("input", kind, shape)]
        inputs += changes.pop("more_inputs", [])
        output_type = changes.pop("output_type", TensorProto.FLOAT)
        outputs = [helper.make_tensor_value_info(self.last, output_type, None)]
        outputs += changes.pop("more_outputs", [])
        graph = helper.make_graph(self.nodes, "net", inputs, outputs, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        return onnx.shape_inference.infer_shapes(model)

    def save(self, path: Path, **changes: Any) -> Path:
        onnx.save(self.model(**changes), path)
        return path


def mobile_net(shape: Sequence[int] = (1, 3, 24, 20)) -> Net:
    """Return a network with what MobileNetV3 has: stem, blocks with and without gate, head."""
    net = Net(shape)
    net.conv((3, 8), strides=[2, 2], bias=False)
    net.batch_norm(8)
    shortcut = net.op("HardSwish")
    net.conv((8, 24), 1)
    net.op("Relu")
    net.conv((24, 24), 5, group=24)
    net.op("HardSwish")
    net.squeeze_excite(24, 8)
    net.conv((24, 8), 1)
    net.op("Add", net.last, shortcut)
    net.conv((8, 20), 1)
    net.op("Clip", net.last, np.float32(0), np.float32(6))
    net.conv((20, 20), 3, group=20, strides=[2, 2])
    net.op("Relu")
    net.conv((20, 12), 1)
    net.classifier(12)
    return net


def reference(path: Path, x: np.ndarray) -> np.ndarray:
    """Run onnx's own evaluator."""
    (result,) = ReferenceEvaluator(onnx.load(path)).run(None, {"input": x})
    return np.asarray(result)
