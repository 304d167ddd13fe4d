"""Collect ONNX nodes, weights and shapes while a traced module is walked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import UserInputError
from ofa_compile.export.wire_format import Chunk, Weight, encode_model

# Opset 18 with its own IR version: every runtime since 2023 reads it, HardSwish (14) is in it, and
# fixed numbers keep the bytes independent of the installed onnx release.
OPSET_VERSION = 18
IR_VERSION = 8

INPUT_NAME = "input"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class Value:
    """A tensor inside the graph: its name and static shape."""

    name: str
    shape: tuple[int, ...]


class GraphBuilder:
    """An ONNX graph under construction, with a static shape for every tensor."""

    def __init__(self) -> None:
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="ofa-compile")
        self._model.opset_import.append(helper.make_opsetid("", OPSET_VERSION))
        self._graph = self._model.graph
        self._graph.name = "subnet"
        self._weights: dict[str, NDArray[np.float32]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def unique_name(self, name: str) -> str:
        """Return `name`, or `name` with the first free number behind it."""
        candidate, number = name, 1
        while candidate in self._shapes or candidate in self._weights:
            candidate, number = f"{name}_{number}", number + 1
        return candidate

    def add_input(self, shape: tuple[int, ...]) -> Value:
        """Declare the graph's only input."""
        self._shapes[INPUT_NAME] = shape
        return Value(INPUT_NAME, shape)

    def add_weight(self, name: str, array: NDArray[np.floating]) -> str:
        """Store a float32 initializer and return the name it got.

        Raises
        ------
        UserInputError
            If the array holds NaN or infinity.
        """
        data = np.ascontiguousarray(array, dtype="<f4")
        if not np.isfinite(data).all():
            msg = f"{name} holds values that are not finite (after folding batch norm)"
            hint = "check the checkpoint, and that batch-norm statistics were calibrated"
            raise UserInputError(msg, hint=hint)
        name = self.unique_name(name)
        self._weights[name] = data
        return name

    def add_constant(self, value: float) -> str:
        """Return the name of a scalar initializer, shared by all users of one value."""
        name = f"constant_{value:g}"
        if name not in self._weights:
            self.add_weight(name, np.array(value, dtype=np.float32))
        return name

    def add_node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        shape: tuple[int, ...],
        **attributes: Any,
    ) -> Value:
        """Append one operator and return its only output.

        Raises
        ------
        UserInputError
            If the output would be empty: the input resolution is too small.
        """
        if min(shape) < 1:
            msg = f"layer {name!r} ({op}) would give an empty output of shape {shape}"
            raise UserInputError(msg, hint="raise the input resolution")
        output = self.unique_name(name)
        self._shapes[output] = shape
        node = helper.make_node(op, inputs, [output], name=output, **attributes)
        self._graph.node.append(node)
        return Value(output, shape)

    def encode(self, output: Value, producer_version: str) -> list[Chunk]:
        """Return the finished model's bytes in pieces, with `output` renamed to "logits"."""
        self._rename(output.name, OUTPUT_NAME)
        shapes = dict(self._shapes)
        self._graph.input.append(_tensor_info(INPUT_NAME, shapes.pop(INPUT_NAME)))
        self._graph.output.append(_tensor_info(OUTPUT_NAME, shapes.pop(output.name)))
        self._graph.value_info.extend(_tensor_info(*item) for item in shapes.items())
        self._model.producer_version = producer_version
        return encode_model(self._model, [Weight(*item) for item in self._weights.items()])

    def _rename(self, old: str, new: str) -> None:
        """Rename one tensor wherever it is written or read."""
        for node in self._graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = new


def _tensor_info(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def write_file(
    chunks: Sequence[Chunk], path: Path, check: Callable[[Path], None] | None = None
) -> None:
    """Write a file through a temporary sibling, so that a reader never sees half of it.

    `check` is given the temporary file; where it raises, nothing is left behind.
    """
    try:
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                file.writelines(chunks)
            if check is not None:
                check(temporary)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise UserInputError(msg, hint="choose a folder that exists and is writable") from error
