"""ONNX file -> Relax module -> `Graph`."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.compiler.onnx_file import load_onnx
from ofa_compile.compiler.tvm_api import FloatImm, IntImm, IRModule, from_onnx, relax, script_of
from ofa_compile.errors import UnsupportedOperatorError

logger = logging.getLogger(__name__)


def import_onnx(path: Path) -> Graph:
    """Read an ONNX model through TVM's Relax frontend.

    Parameters
    ----------
    path
        Model with one float32 input (N, C, H, W) and one output, all shapes static.

    Raises
    ------
    UserInputError
        If the file is missing or not an ONNX model.
    UnsupportedOperatorError
        If Relax cannot import an operator, or shapes are not static.
    """
    model = load_onnx(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = from_onnx(model)
    except Exception as err:
        operators = ", ".join(sorted({node.op_type for node in model.graph.node}))
        msg = f"{path}: TVM's ONNX frontend cannot import it: {err}; its operators: {operators}"
        raise UnsupportedOperatorError(msg) from err
    return read_relax(module)


def read_relax(module: IRModule) -> Graph:
    """Turn the `main` function of a Relax module into a `Graph`."""
    main = module["main"]
    if len(main.params) != 1:
        msg = f"the network has {len(main.params)} inputs; exactly one is supported"
        raise UnsupportedOperatorError(msg)
    network_input = Value(_shape(main.params[0]))
    _check_input(main.params[0], network_input.shape)
    reader = _Reader(module)
    reader.values[main.params[0]] = network_input
    for block in main.body.blocks:
        for binding in block.bindings:
            reader.read(binding.var, binding.value)
    result = reader.value(main.body.body)
    if isinstance(result, list):
        if len(result) != 1:
            msg = f"the network has {len(result)} outputs; exactly one is supported"
            raise UnsupportedOperatorError(msg)
        result = result[0]
    if len(result.shape) != 2:
        msg = f"the output has shape {result.shape}; it must be (N, classes)"
        raise UnsupportedOperatorError(msg)
    return Graph(network_input, result, reader.nodes)


def _check_input(parameter: Any, shape: tuple[int, ...]) -> None:
    dtype = str(parameter.ty.dtype)
    if dtype != "float32":
        msg = f"the input is of type {dtype}; only float32 is supported"
        raise UnsupportedOperatorError(msg, hint="export the network in float32")
    if len(shape) != 4 or min(shape) < 1:
        msg = f"the input has shape {shape}; it must be (N, C, H, W)"
        raise UnsupportedOperatorError(msg)


def _shape(expression: Any) -> tuple[int, ...]:
    """Return the static shape of a Relax expression."""
    if isinstance(expression.ty, relax.TupleType):
        msg = f"an operator with several outputs ('{expression}') is not supported"
        raise UnsupportedOperatorError(msg)
    try:
        return tuple(int(d) for d in expression.ty.shape.values)
    except (AttributeError, TypeError) as err:
        msg = f"'{expression}' has no static shape; export the network with fixed sizes"
        raise UnsupportedOperatorError(msg) from err


class _Reader:
    """Walks bindings in order; `values` maps Relax variables to ours."""

    def __init__(self, module: IRModule) -> None:
        self.module = module
        self.values: dict[Any, Any] = {}
        self.nodes: list[Node] = []

    def value(self, expression: Any) -> Any:
        if isinstance(expression, relax.Var):
            return self.values[expression]
        if hasattr(expression, "value") and hasattr(expression.value, "numpy"):
            data = expression.value.numpy()
            return Value(tuple(data.shape), np.asarray(data))
        if hasattr(expression, "fields"):
            return [self.value(item) for item in expression.fields]
        msg = f"Relax expression {type(expression).__name__} is not supported"
        raise UnsupportedOperatorError(msg)

    def read(self, variable: Any, expression: Any) -> None:
        if isinstance(expression, relax.TupleGetItem):
            self.values[variable] = self.value(expression.tuple_value)[expression.index]
        elif isinstance(expression, relax.Call) and hasattr(expression.op, "name"):
            self.values[variable] = self._call(variable, expression)
        else:
            self.values[variable] = self.value(expression)

    def _call(self, variable: Any, call: Any) -> Any:
        name = call.op.name.removeprefix("relax.").removeprefix("nn.")
        if name == "call_tir":
            return self._call_tir(variable, call)
        inputs: list[Value] = []
        attrs: dict[str, Any] = {"relax_call": call}
        for argument in call.args:
            if isinstance(argument, relax.ShapeExpr):
                attrs["shape"] = tuple(int(d) for d in argument.values)
            elif isinstance(argument, IntImm | FloatImm):
                attrs.setdefault("scalars", []).append(float(argument.value))
            else:
                value = self.value(argument)
                inputs.extend(value if isinstance(value, list) else [value])
        attrs.update(_attributes(call))
        if name == "batch_norm":
            output = Value(inputs[0].shape)
            self.nodes.append(Node(name, inputs, output, attrs))
            return [output, *inputs[3:5]]
        output = Value(_shape(variable))
        self.nodes.append(Node(name, inputs, output, attrs))
        return output

    def _call_tir(self, variable: Any, call: Any) -> Value:
        """Keep a function that the frontend wrote itself, and name those that passes know."""
        function, arguments = call.args[0], call.args[1]
        inputs = [self.value(argument) for argument in arguments.fields]
        output = Value(_shape(variable))
        attrs = {"function": self.module[function]}
        name = function.name_hint.rstrip("0123456789_")
        operation = _TE_FUNCTIONS.get(name)
        known = operation is not None and operation in script_of(self.module[function])
        self.nodes.append(Node(name if known else "call_tir", inputs, output, attrs))
        return output


# Functions that the frontend writes instead of calling an operator (Clip becomes these two), and
# what must stand in their text.
_TE_FUNCTIONS = {"maximum": "T.max(", "minimum": "T.min("}

# The fields of Relax's attribute objects that our passes read.
_ATTRIBUTES = (
    "strides",
    "padding",
    "dilation",
    "groups",
    "axis",
    "axes",
    "keepdims",
    "pool_size",
    "ceil_mode",
    "count_include_pad",
    "output_size",
    "epsilon",
)


def _attributes(call: Any) -> dict[str, Any]:
    """Read a call's attributes into plain Python values."""
    found: dict[str, Any] = {}
    for name in _ATTRIBUTES:
        value = getattr(call.attrs, name, None)
        if value is None:
            continue
        plain = isinstance(value, bool | int | float)
        found[name] = value if plain else tuple(int(item) for item in value)
    return found
