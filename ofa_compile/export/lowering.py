"""Turn one torch module or function at a time into ONNX operators."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ofa_compile.errors import UnsupportedOperatorError, UserInputError
from ofa_compile.export.graph_builder import GraphBuilder, Value

SUPPORTED = (
    "Conv2d, BatchNorm2d, ReLU, ReLU6, Hardswish, Hardsigmoid, AdaptiveAvgPool2d(1), AvgPool2d, "
    "MaxPool2d, Linear, Flatten, Dropout, Identity, + and *"
)


def unsupported(name: str, what: str) -> UnsupportedOperatorError:
    """Return the error for an operator of the layer `name` that has no ONNX form here."""
    return UnsupportedOperatorError(
        f"cannot export {what} (layer {name!r})", hint=f"the exporter knows {SUPPORTED}"
    )


def to_float64(tensor: torch.Tensor) -> NDArray[np.float64]:
    """Copy a parameter to a float64 array of its own, whatever device and precision it has."""
    array: NDArray[np.float64] = tensor.detach().to(device="cpu", dtype=torch.float64).numpy()
    return array.copy() if tensor.dtype == torch.float64 else array


def bias_of(layer: nn.Conv2d | nn.Linear) -> NDArray[np.float64]:
    """Return a layer's bias, zeros where it has none."""
    return np.zeros(len(layer.weight)) if layer.bias is None else to_float64(layer.bias)


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, (tuple, list)) else (value, value)
    return int(height), int(width)


def _window_size(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def batch_norm_affine(
    norm: nn.BatchNorm2d, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scale and shift that an evaluation-mode batch norm applies per channel."""
    if norm.running_mean is None or norm.running_var is None:
        raise unsupported(name, "BatchNorm2d without running statistics")
    scale = 1.0 / np.sqrt(to_float64(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * to_float64(norm.weight)
    shift = -to_float64(norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + to_float64(norm.bias)
    return scale, shift


def lower_conv(
    graph: GraphBuilder, value: Value, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, name: str
) -> Value:
    """Emit Conv with bias; a following batch norm is folded in, in float64."""
    weight, bias = to_float64(conv.weight), bias_of(conv)
    if norm is not None:
        scale, shift = batch_norm_affine(norm, name)
        weight *= scale[:, None, None, None]
        bias = bias * scale + shift
    kernel, stride, dilation = _pair(conv.kernel_size), _pair(conv.stride), _pair(conv.dilation)
    pads = _conv_padding(conv, name)
    if len(value.shape) != 4 or value.shape[1] != conv.in_channels:
        msg = f"layer {name!r} wants {conv.in_channels} channels but gets shape {value.shape}"
        raise UserInputError(msg)
    size = [
        _window_size(*args)
        for args in zip(value.shape[2:], kernel, stride, pads, dilation, strict=True)
    ]
    return graph.add_node(
        "Conv",
        [
            value.name,
            graph.add_weight(f"{name}.weight", weight),
            graph.add_weight(f"{name}.bias", bias),
        ],
        name,
        (value.shape[0], conv.out_channels, *size),
        kernel_shape=kernel,
        strides=stride,
        pads=pads * 2,
        dilations=dilation,
        group=conv.groups,
    )


def _conv_padding(conv: nn.Conv2d, name: str) -> tuple[int, int]:
    """Return the padding (top = bottom, left = right) of a convolution."""
    if conv.padding_mode != "zeros":
        raise unsupported(name, f"Conv2d with padding_mode={conv.padding_mode!r}")
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        spans = [
            d * (k - 1) for k, d in zip(_pair(conv.kernel_size), _pair(conv.dilation), strict=True)
        ]
        if any(span % 2 for span in spans):
            raise unsupported(name, "Conv2d with padding='same' and an even kernel")
        return spans[0] // 2, spans[1] // 2
    return _pair(conv.padding)


def lower_batch_norm(graph: GraphBuilder, value: Value, norm: nn.BatchNorm2d, name: str) -> Value:
    """Emit a batch norm that follows no convolution, as the 1x1 depthwise Conv that it is."""
    scale, shift = batch_norm_affine(norm, name)
    weight = graph.add_weight(f"{name}.weight", scale[:, None, None, None])
    bias = graph.add_weight(f"{name}.bias", shift)
    return graph.add_node(
        "Conv",
        [value.name, weight, bias],
        name,
        value.shape,
        kernel_shape=(1, 1),
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        dilations=(1, 1),
        group=len(scale),
    )


def lower_linear(graph: GraphBuilder, value: Value, linear: nn.Linear, name: str) -> Value:
    """Emit Gemm with the weight as torch stores it."""
    if len(value.shape) != 2 or value.shape[1] != linear.in_features:
        msg = f"layer {name!r} wants (N, {linear.in_features}) but gets shape {value.shape}"
        raise UserInputError(msg)
    weight = linear.weight.detach().to(device="cpu", dtype=torch.float32).numpy()
    inputs = [
        value.name,
        graph.add_weight(f"{name}.weight", weight),
        graph.add_weight(f"{name}.bias", bias_of(linear)),
    ]
    return graph.add_node("Gemm", inputs, name, (value.shape[0], linear.out_features), transB=1)


def lower_pool(
    graph: GraphBuilder, value: Value, pool: nn.AvgPool2d | nn.MaxPool2d, name: str
) -> Value:
    """Emit AveragePool or MaxPool with torch's meaning of ceil_mode."""
    kernel, stride, pads = _pair(pool.kernel_size), _pair(pool.stride), _pair(pool.padding)
    dilation = _pair(pool.dilation) if isinstance(pool, nn.MaxPool2d) else (1, 1)
    windows = list(zip(value.shape[2:], kernel, stride, pads, dilation, strict=True))
    floor = tuple(_window_size(*window) for window in windows)
    size = tuple(_ceil_size(*window) for window in windows) if pool.ceil_mode else floor
    padded = any(pads)
    if size != floor and padded:
        # torch drops windows that start in the padding and older runtimes do not.
        raise unsupported(name, f"{type(pool).__name__} with ceil_mode and padding")
    attributes: dict[str, int | Sequence[int]] = {
        "kernel_shape": kernel,
        "strides": stride,
        "pads": pads * 2,
        "ceil_mode": int(size != floor),
    }
    shape = (*value.shape[:2], *size)
    if isinstance(pool, nn.MaxPool2d):
        if pool.return_indices:
            raise unsupported(name, "MaxPool2d with return_indices")
        return graph.add_node(
            "MaxPool", [value.name], name, shape, dilations=dilation, **attributes
        )
    if pool.divisor_override:
        raise unsupported(name, "AvgPool2d with divisor_override")
    # Without padding torch divides a clipped window by what it covers: ONNX's "exclude".
    include = int(pool.count_include_pad and padded)
    return graph.add_node(
        "AveragePool", [value.name], name, shape, count_include_pad=include, **attributes
    )


def _ceil_size(size: int, kernel: int, stride: int, pad: int, dilation: int = 1) -> int:
    count = math.ceil((size + 2 * pad - dilation * (kernel - 1) - 1) / stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count


def lower_global_pool(graph: GraphBuilder, value: Value, name: str) -> Value:
    """Emit GlobalAveragePool over height and width."""
    return graph.add_node("GlobalAveragePool", [value.name], name, (*value.shape[:2], 1, 1))


def lower_adaptive_pool(
    graph: GraphBuilder, value: Value, pool: nn.AdaptiveAvgPool2d, name: str
) -> Value:
    """Emit GlobalAveragePool for an adaptive pool to one pixel."""
    if pool.output_size not in (1, (1, 1), [1, 1]):
        raise unsupported(name, f"AdaptiveAvgPool2d({pool.output_size})")
    return lower_global_pool(graph, value, name)


def lower_flatten(graph: GraphBuilder, value: Value, name: str) -> Value:
    """Emit Flatten from the channel axis on; a no-op on what is flat already."""
    if len(value.shape) == 2:
        return value
    return graph.add_node(
        "Flatten", [value.name], name, (value.shape[0], math.prod(value.shape[1:])), axis=1
    )


def lower_mean(
    graph: GraphBuilder, value: Value, dims: Sequence[int], keepdim: bool, name: str
) -> Value:
    """Emit the mean over height and width."""
    if len(value.shape) != 4 or sorted(dim % 4 for dim in dims) != [2, 3]:
        raise unsupported(name, f"mean over dimensions {list(dims)} of shape {value.shape}")
    pooled = lower_global_pool(graph, value, name)
    return pooled if keepdim else lower_flatten(graph, pooled, f"{name}_flat")


def lower_binary(graph: GraphBuilder, op: str, left: Value, right: Value, name: str) -> Value:
    """Emit Add or Mul with broadcasting."""
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError as error:
        msg = f"layer {name!r} ({op}) cannot combine shapes {left.shape} and {right.shape}"
        raise UserInputError(msg) from error
    return graph.add_node(op, [left.name, right.name], name, shape)


def _relu(graph: GraphBuilder, value: Value, name: str) -> Value:
    return graph.add_node("Relu", [value.name], name, value.shape)


def _relu6(graph: GraphBuilder, value: Value, name: str) -> Value:
    inputs = [value.name, graph.add_constant(0.0), graph.add_constant(6.0)]
    return graph.add_node("Clip", inputs, name, value.shape)


def _hardswish(graph: GraphBuilder, value: Value, name: str) -> Value:
    return graph.add_node("HardSwish", [value.name], name, value.shape)


def _hardsigmoid(graph: GraphBuilder, value: Value, name: str) -> Value:
    # torch computes relu6(x + 3) / 6; ONNX's default slope is 0.2.
    return graph.add_node("HardSigmoid", [value.name], name, value.shape, alpha=1.0 / 6.0, beta=0.5)


Unary = Callable[[GraphBuilder, Value, str], Value]

ACTIVATION_MODULES: dict[type[nn.Module], Unary] = {
    nn.ReLU: _relu,
    nn.ReLU6: _relu6,
    nn.Hardswish: _hardswish,
    nn.Hardsigmoid: _hardsigmoid,
}
ACTIVATION_FUNCTIONS: dict[Any, Unary] = {
    torch.relu: _relu,
    nn.functional.relu: _relu,
    nn.functional.relu6: _relu6,
    nn.functional.hardswish: _hardswish,
    nn.functional.hardsigmoid: _hardsigmoid,
}
BINARY_FUNCTIONS: dict[Any, str] = {
    operator.add: "Add",
    operator.iadd: "Add",
    torch.add: "Add",
    operator.mul: "Mul",
    operator.imul: "Mul",
    torch.mul: "Mul",
}
PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d)
