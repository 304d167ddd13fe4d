"""What follows the int32 sum of a quantised layer, as vectors of float32 numbers per channel.

With `a` the sum, `u = a * scale + offset (+ r * residual)` is the layer's result in steps of the
output; the activation is applied in these units:

    none                u
    relu, relu6         max(u, zero), min(..., top)
    hswish              u * clip(u * gate + 1/2, 0, 1) + zero
    hsigmoid            clip(u * gate + 1/2, 0, 1) * top + zero

and for an output of bytes the nearest integer, clipped to a byte. `offset` holds the bias, what
the zero points of input and residual add, and `zero` itself where that may come before the
activation. Floats are an output with steps of one and no zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.int8.scheme import Doubles, Floats, Int8Weight, Quantisation

_ZERO_COMES_LAST = ("hswish", "hsigmoid")


def section_names(activation: str, *, has_residual: bool) -> tuple[str, ...]:
    """Name the vectors that an epilogue has, in the order in which they are stored."""
    names = ["scale", "offset"]
    if has_residual:
        names.append("residual")
    if activation != "none":
        names.append("zero")
    if activation in ("hswish", "hsigmoid"):
        names.append("gate")
    if activation in ("relu6", "hsigmoid"):
        names.append("top")
    return tuple(names)


@dataclass(frozen=True)
class Layer:
    """All numbers of one quantised layer.

    Attributes
    ----------
    weight
        (out_channels, products per output); the input's scales are folded into it where it mixes
        channels.
    bias
        Float32, of shape (out_channels,).
    activation
        As of the workload.
    input_zero
        Zero point behind each product, broadcastable to the weight.
    residual, output
        Their quantisation; None where there is none.
    """

    weight: Int8Weight
    bias: NDArray[Any]
    activation: str
    input_zero: NDArray[Any]
    residual: Quantisation | None
    output: Quantisation | None


def make_epilogue(layer: Layer, shift: int = 0) -> Floats:
    """Return the vectors, of shape (sections, out_channels).

    Parameters
    ----------
    layer
        The layer.
    shift
        Subtracted from all bytes where maps are stored as int8: 128, else 0.
    """
    step, zero = _output_steps(layer, shift)
    rows = layer.weight.values.reshape(len(layer.weight.values), -1).astype(np.float64)
    products = (rows * (layer.input_zero.astype(np.float64) - shift)).sum(axis=1)
    offset = layer.bias - layer.weight.scale * products
    vectors: dict[str, Any] = {"scale": layer.weight.scale / step}
    if layer.residual is not None:
        residual_zero = layer.residual.zero_point - shift
        offset = offset - layer.residual.scale * residual_zero
        vectors["residual"] = layer.residual.scale / step
    is_last = layer.activation in _ZERO_COMES_LAST
    vectors["offset"] = offset / step + (0 if is_last else zero)
    vectors["zero"] = zero
    vectors["gate"] = step / 6
    vectors["top"] = 1 / step if is_last else 6 / step + zero
    names = section_names(layer.activation, has_residual=layer.residual is not None)
    return np.stack([vectors[name] for name in names]).astype(np.float32)


def _output_steps(layer: Layer, shift: int) -> tuple[Doubles, Doubles]:
    if layer.output is None:
        return np.ones_like(layer.weight.scale), np.zeros_like(layer.weight.scale)
    return layer.output.scale, layer.output.zero_point.astype(np.float64) - shift


def fused(a: Any, b: Any, c: Any) -> Floats:
    """Multiply and add float32 numbers with one rounding, as the cores do."""
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64) + np.asarray(c, np.float64)
    return exact.astype(np.float32)


def apply_epilogue(
    sums: NDArray[Any], epilogue: Floats, activation: str, residual: NDArray[Any] | None = None
) -> Floats:
    """Compute the result in steps of the output, not yet rounded; channels are the last axis."""
    has_residual = residual is not None
    part = dict(zip(section_names(activation, has_residual=has_residual), epilogue, strict=True))
    steps = fused(sums.astype(np.float32), part["scale"], part["offset"])
    if residual is not None:
        steps = fused(residual.astype(np.float32), part["residual"], steps)
    if activation == "none":
        return steps
    if activation in ("relu", "relu6"):
        steps = np.maximum(steps, part["zero"])
        return np.asarray(np.minimum(steps, part["top"]) if activation == "relu6" else steps)
    gate = np.clip(fused(steps, part["gate"], np.float32(0.5)), np.float32(0), np.float32(1))
    return fused(gate, steps if activation == "hswish" else part["top"], part["zero"])
