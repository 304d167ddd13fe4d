"""Export a static subnet to ONNX.

`torch.onnx.export` needs 7-10 s for a MobileNet, nearly all of it tracing. A subnet is a short list
of known modules, so it is traced symbolically (torch.fx, no tensor is computed) and written with
onnx's own builders in a fraction of a second. Batch norm is folded into the convolution before it.
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any, NoReturn

import onnx
import torch
from torch import fx, nn

from ofa_compile.errors import CompilationError, UnsupportedOperatorError, UserInputError
from ofa_compile.export import lowering
from ofa_compile.export.graph_builder import GraphBuilder, Value, write_file
from ofa_compile.export.lowering import unsupported
from ofa_compile.export.wire_format import Chunk

# Raised whenever the exported graph changes for the same subnet: part of the file's identity.
EXPORTER_VERSION = "1"


def export_onnx(
    subnet: nn.Module,
    path: str | Path,
    *,
    resolution: int | tuple[int, int],
    batch: int = 1,
    check: bool = True,
) -> Path:
    """Write a static subnet as an ONNX file with input "input" and output "logits".

    The same weights, resolution and batch give the same bytes.

    Parameters
    ----------
    subnet
        Module in evaluation mode that maps float32 (N, 3, H, W) to logits (N, classes) and that
        `torch.fx` can trace, as `Supernet.extract` returns.
    path
        File to write; replaced atomically.
    resolution
        Height and width of the input in pixels; one number for a square.
    batch
        Number of images N, fixed in the file.
    check
        Run onnx's checker on the result.

    Returns
    -------
    The path written.

    Raises
    ------
    UnsupportedOperatorError
        If the module uses something that has no ONNX form here; it is named.
    UserInputError
        If the module is in training mode, the resolution does not fit, a weight is not finite, or
        the file cannot be written.
    """
    path = Path(path)
    height, width = _input_size(resolution, batch)
    if any(module.training for module in subnet.modules()):
        msg = "the module is in training mode"
        raise UserInputError(msg, hint="call .eval() before exporting")
    chunks = _encode_subnet(subnet, (batch, _input_channels(subnet), height, width))
    write_file(chunks, path, _check_file if check else None)
    return path


def _check_file(path: Path) -> None:
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        msg = f"onnx refuses the exported graph: {error}"
        raise CompilationError(msg) from error


def _encode_subnet(subnet: nn.Module, input_shape: tuple[int, ...]) -> list[Chunk]:
    """Return the pieces of the ONNX file of a static subnet."""
    try:
        traced = fx.symbolic_trace(subnet)
    except Exception as error:  # symbolic tracing runs the user's own forward: anything may rise
        msg = f"cannot trace {type(subnet).__name__}: {error}"
        hint = "the forward pass must not depend on the values of its input"
        raise UnsupportedOperatorError(msg, hint=hint) from error
    return _Walker(traced, input_shape).encode()


def _input_size(resolution: int | tuple[int, int], batch: int) -> tuple[int, int]:
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if min(height, width, batch) < 1:
        msg = f"resolution {height}x{width} and batch {batch} must be at least 1"
        raise UserInputError(msg)
    return height, width


def _input_channels(subnet: nn.Module) -> int:
    """Return the channels of the first convolution (3 for every network of ours)."""
    convolutions = (module for module in subnet.modules() if isinstance(module, nn.Conv2d))
    return next((conv.in_channels for conv in convolutions), 3)


class _Walker:
    """Walks a traced module in execution order and emits its ONNX operators."""

    def __init__(self, traced: fx.GraphModule, input_shape: tuple[int, ...]) -> None:
        self._traced = traced
        self._modules = dict(traced.named_modules())
        self._input_shape = input_shape
        self._graph = GraphBuilder()
        # Tensors as Value; sizes and shapes, which are static here, as plain Python values.
        self._env: dict[fx.Node, Any] = {}

    def encode(self) -> list[Chunk]:
        output: Any = None
        for node in self._traced.graph.nodes:
            if node.op == "output":
                output = self._resolve(node.args[0])
            elif node.op == "placeholder":
                self._add_placeholder(node)
            else:
                self._env[node] = getattr(self, f"_{node.op}")(node)
        if not isinstance(output, Value) or len(output.shape) != 2:
            shape = output.shape if isinstance(output, Value) else type(output).__name__
            what = f"an output of shape {shape} instead of (N, classes)"
            raise unsupported(what=what, name="output")
        return self._graph.encode(output, EXPORTER_VERSION)

    def _add_placeholder(self, node: fx.Node) -> None:
        if self._env:
            if not node.args:
                raise unsupported(node.name, "a module with more than one input")
            self._env[node] = node.args[0]
            return
        self._env[node] = self._graph.add_input(self._input_shape)

    def _resolve(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self._env[node])

    def _tensor(self, node: fx.Node, index: int = 0) -> Value:
        """Return the tensor that a node takes as its argument number `index`."""
        values = [*node.args, *node.kwargs.values()]
        value = self._resolve(values[index]) if index < len(values) else None
        if not isinstance(value, Value):
            raise unsupported(node.name, f"{_describe(node)} on {value!r} instead of a tensor")
        return value

    def _call_module(self, node: fx.Node) -> Value:
        module, name = self._modules[str(node.target)], str(node.target)
        kind = type(module)
        value = self._tensor(node)
        if isinstance(module, lowering.PASS_THROUGH):
            return value
        if kind is nn.Conv2d:
            return lowering.lower_conv(self._graph, value, module, self._norm_after(node), name)
        if kind is nn.BatchNorm2d:
            if self._is_folded(node):
                return value
            return lowering.lower_batch_norm(self._graph, value, module, name)
        if kind in lowering.ACTIVATION_MODULES:
            result = lowering.ACTIVATION_MODULES[kind](self._graph, value, name)
            return self._after_inplace(value, result, getattr(module, "inplace", False))
        if kind is nn.Linear:
            return lowering.lower_linear(self._graph, value, module, name)
        if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)):
            return lowering.lower_pool(self._graph, value, module, name)
        if kind is nn.AdaptiveAvgPool2d:
            return lowering.lower_adaptive_pool(self._graph, value, module, name)
        if kind is nn.Flatten and module.start_dim == 1 and module.end_dim in (-1, 3):
            return lowering.lower_flatten(self._graph, value, name)
        raise unsupported(name, f"module {module}")

    def _call_function(self, node: fx.Node) -> Any:
        target, name = node.target, node.name
        if target is getattr or target is operator.getitem:
            return self._static_shape(node)
        if target in lowering.BINARY_FUNCTIONS and self._has_two_tensors(node):
            op = lowering.BINARY_FUNCTIONS[target]
            left = self._tensor(node)
            result = lowering.lower_binary(self._graph, op, left, self._tensor(node, 1), name)
            return self._after_inplace(left, result, target in (operator.iadd, operator.imul))
        if target in lowering.ACTIVATION_FUNCTIONS:
            value = self._tensor(node)
            result = lowering.ACTIVATION_FUNCTIONS[target](self._graph, value, name)
            return self._after_inplace(value, result, bool(node.kwargs.get("inplace", False)))
        if target is torch.flatten:
            return self._flatten(node)
        if target is torch.mean:
            return self._mean(node)
        if target is nn.functional.adaptive_avg_pool2d and node.args[1:] in ((1,), ((1, 1),)):
            return lowering.lower_global_pool(self._graph, self._tensor(node), name)
        raise unsupported(name, _describe(node))

    def _call_method(self, node: fx.Node) -> Any:
        method = str(node.target)
        if method == "size":
            shape: Any = self._tensor(node).shape
            return shape[node.args[1]] if len(node.args) > 1 else shape
        if method == "flatten":
            return self._flatten(node)
        if method == "mean":
            return self._mean(node)
        if method in ("view", "reshape"):
            return self._reshape(node)
        if method == "contiguous":
            return self._tensor(node)
        if method in ("add", "mul") and self._has_two_tensors(node):
            left, right = self._tensor(node), self._tensor(node, 1)
            return lowering.lower_binary(self._graph, method.title(), left, right, node.name)
        raise unsupported(node.name, _describe(node))

    def _get_attr(self, node: fx.Node) -> NoReturn:
        raise unsupported(node.name, f"the bare parameter {node.target!r}")

    def _static_shape(self, node: fx.Node) -> Any:
        owner, key = self._resolve(node.args[0]), node.args[1]
        if isinstance(owner, Value) and key == "shape":
            return owner.shape
        if isinstance(owner, tuple) and isinstance(key, int):
            return owner[key]
        raise unsupported(node.name, _describe(node))

    def _flatten(self, node: fx.Node) -> Value:
        arguments = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
        if arguments.get("start_dim", 0) != 1 or arguments.get("end_dim", -1) not in (-1, 3):
            raise unsupported(node.name, "flatten that does not start at the channel axis")
        return lowering.lower_flatten(self._graph, self._tensor(node), node.name)

    def _mean(self, node: fx.Node) -> Value:
        arguments: dict[str, Any] = (
            dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | node.kwargs
        )
        dims, keepdim = arguments.get("dim", ()), bool(arguments.get("keepdim", False))
        if not isinstance(dims, (tuple, list)):
            raise unsupported(node.name, f"mean over dimension {dims} alone")
        value = self._tensor(node)
        return lowering.lower_mean(self._graph, value, [int(d) for d in dims], keepdim, node.name)

    def _reshape(self, node: fx.Node) -> Value:
        value = self._tensor(node)
        sizes = self._resolve(node.args[1:])
        sizes = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
        flat = lowering.lower_flatten(self._graph, value, node.name)
        if tuple(sizes) not in (flat.shape, (flat.shape[0], -1), (-1, flat.shape[1])):
            raise unsupported(node.name, f"reshape of {value.shape} to {tuple(sizes)}")
        return flat

    def _has_two_tensors(self, node: fx.Node) -> bool:
        values = self._resolve((*node.args, *node.kwargs.values()))
        return len(values) == 2 and all(isinstance(value, Value) for value in values)

    def _after_inplace(self, old: Value, new: Value, inplace: bool) -> Value:
        """Let every alias of a tensor that torch overwrites see the new content."""
        if inplace:
            self._env = {node: new if value is old else value for node, value in self._env.items()}
        return new

    def _norm_after(self, conv: fx.Node) -> nn.BatchNorm2d | None:
        """Return the batch norm that is the only reader of a convolution."""
        users = list(conv.users)
        if len(users) == 1 and users[0].op == "call_module":
            module = self._modules[str(users[0].target)]
            if type(module) is nn.BatchNorm2d:
                return module
        return None

    def _is_folded(self, norm: fx.Node) -> bool:
        """Tell whether a batch norm was folded into the convolution before it."""
        producer = norm.args[0] if norm.args else None
        if not isinstance(producer, fx.Node) or producer.op != "call_module":
            return False
        is_conv = type(self._modules[str(producer.target)]) is nn.Conv2d
        return is_conv and self._norm_after(producer) is not None


def _describe(node: fx.Node) -> str:
    target = node.target
    label = target if isinstance(target, str) else getattr(target, "__name__", str(target))
    return f"{node.op.removeprefix('call_')} {label}"
