"""Random data and float64 reference results for every kind of workload, in plain numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler import workload as w

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Draw = Callable[..., Floats]

ACTIVATIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hsigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hswish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}


@dataclass(frozen=True)
class Case:
    """A workload with data: inputs as the kernel reads them, constants as the network has them."""

    workload: w.Workload
    inputs: list[NDArray[Any]]
    expected: NDArray[Any]
    constants: dict[str, Any] = field(default_factory=dict)


def make_case(workload: w.Workload, rng: np.random.Generator) -> Case:
    """Draw data and compute what the kernel should return."""
    return _MAKERS[workload.kind](workload, lambda *shape: _draw(rng, shape))


def _draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    # Spread over more than (0, 6) and (-3, 3), so that every branch of the activations is taken.
    return 2 * rng.standard_normal(shape, dtype=np.float32)


def _fan_in(weight: Floats, products: int) -> Floats:
    """Scale weights so that sums of so many products do not grow with their number."""
    return weight / np.float32(math.sqrt(products))


def windows(x: NDArray[Any], work: w._Windowed, fill: float) -> Iterator[Doubles]:
    """Yield what each tap of the window sees of NHWC x: (N, out_height, out_width, C)."""
    top, left, bottom, right = work.padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(x.astype(np.float64), edges, constant_values=fill)
    for row in range(work.kernel[0]):
        for column in range(work.kernel[1]):
            stop = row + (work.out_height - 1) * work.stride[0] + 1
            end = column + (work.out_width - 1) * work.stride[1] + 1
            yield padded[:, row : stop : work.stride[0], column : end : work.stride[1]]


def _pointwise(work: w.Pointwise, draw: Draw) -> Case:
    x, bias = draw(work.rows, work.in_channels), draw(work.out_channels)
    weight = _fan_in(draw(work.out_channels, work.in_channels), work.in_channels)
    inputs = [x]
    result = x.astype(np.float64) @ weight.T + bias
    if work.has_residual:
        inputs.append(draw(work.rows, work.out_channels))
        result += inputs[-1]
    expected = ACTIVATIONS[work.activation](result)
    return Case(work, inputs, expected, {"weight": weight, "bias": bias})


def _gated_pointwise(work: w.GatedPointwise, draw: Draw) -> Case:
    x, bias = draw(work.rows, work.in_channels), draw(work.out_channels)
    weight = _fan_in(draw(work.out_channels, work.in_channels), work.in_channels)
    gate = draw(work.batch, work.in_channels)
    inputs = [x, gate]
    gated = x.astype(np.float64) * np.repeat(gate, work.rows // work.batch, axis=0)
    result = gated @ weight.T + bias
    if work.has_residual:
        inputs.insert(1, draw(work.rows, work.out_channels))
        result += inputs[1]
    expected = ACTIVATIONS[work.activation](result)
    return Case(work, inputs, expected, {"weight": weight, "bias": bias})


def _depthwise(work: w.Depthwise, draw: Draw) -> Case:
    x = draw(work.batch, work.height, work.width, work.channels)
    weight = _fan_in(draw(work.channels, 1, *work.kernel), math.prod(work.kernel))
    bias = draw(work.channels)
    taps = weight.reshape(work.channels, -1).T.astype(np.float64)
    result = np.zeros(_out_shape(work, work.channels)) + bias
    for seen, factor in zip(windows(x, work, 0.0), taps, strict=True):
        result += seen * factor
    expected = ACTIVATIONS[work.activation](result)
    return Case(work, [x], expected, {"weight": weight, "bias": bias})


def _separable(work: w.Separable, draw: Draw) -> Case:
    first, second = work.parts
    window, product = _depthwise(first, draw), _pointwise(second, draw)
    bias, weight = product.constants["bias"], product.constants["weight"]
    result = window.expected.reshape(-1, work.channels) @ weight.T + bias
    residual = product.inputs[1:]
    expected = ACTIVATIONS[work.out_activation](result + sum(residual))
    constants = {
        "window": window.constants["weight"],
        "window_bias": window.constants["bias"],
        **product.constants,
    }
    return Case(work, [*window.inputs, *residual], expected, constants)


def _out_shape(work: w._Windowed, channels: int) -> tuple[int, int, int, int]:
    return work.batch, work.out_height, work.out_width, channels


def _convolution(work: w.Convolution, draw: Draw) -> Case:
    x = draw(work.batch, work.height, work.width, work.in_channels)
    weight = draw(work.out_channels, work.in_channels, *work.kernel)
    weight = _fan_in(weight, work.in_channels * math.prod(work.kernel))
    bias = draw(work.out_channels)
    taps = weight.astype(np.float64).reshape(work.out_channels, work.in_channels, -1)
    result = np.zeros(_out_shape(work, work.out_channels)) + bias
    for seen, matrix in zip(windows(x, work, 0.0), taps.transpose(2, 1, 0), strict=True):
        result += seen @ matrix
    inputs = [x.transpose(0, 3, 1, 2) if work.input_layout == "nchw" else x]
    if work.has_residual:
        inputs.append(draw(*result.shape))
        result += inputs[-1]
    expected = ACTIVATIONS[work.activation](result)
    return Case(work, inputs, expected, {"weight": weight, "bias": bias})


def _pool(work: w.Pool, draw: Draw) -> Case:
    x = draw(work.batch, work.height, work.width, work.channels)
    if work.reduction == "max":
        return Case(work, [x], np.stack(list(windows(x, work, -np.inf))).max(axis=0))
    total = np.sum(list(windows(x, work, 0.0)), axis=0)
    inside = np.sum(list(windows(np.ones_like(x), work, 0.0)), axis=0)
    count = work.kernel[0] * work.kernel[1] if work.count_padding else inside
    mean: Doubles = total / count
    return Case(work, [x], mean)


def _global_pool(work: w.GlobalPool, draw: Draw) -> Case:
    x = draw(work.batch, work.positions, work.channels)
    mean: Doubles = x.mean(axis=1, dtype=np.float64)
    return Case(work, [x], mean)


def _scale_channels(work: w.ScaleChannels, draw: Draw) -> Case:
    x, scale = draw(work.batch, work.positions, work.channels), draw(work.batch, work.channels)
    return Case(work, [x, scale], x.astype(np.float64) * scale[:, None])


def _scale_weights(work: w.ScaleWeights, draw: Draw) -> Case:
    scale = draw(work.in_channels)
    panels = [draw(work.in_channels, width) for width in work.block_widths]
    weight = np.concatenate([panel.ravel() for panel in panels])
    wide = scale[:, None].astype(np.float64)
    expected = np.concatenate([(panel * wide).ravel() for panel in panels])
    return Case(work, [scale], expected, {"weight": weight})


def _add(work: w.Add, draw: Draw) -> Case:
    a, b = draw(work.size), draw(work.size)
    return Case(work, [a, b], ACTIVATIONS[work.activation](a.astype(np.float64) + b))


def _activate(work: w.Activate, draw: Draw) -> Case:
    x = draw(work.size)
    return Case(work, [x], ACTIVATIONS[work.activation](x.astype(np.float64)))


def _cast(work: w.Cast, draw: Draw) -> Case:
    x = draw(work.size).astype(np.float16)  # exact in either type
    source = "float32" if work.destination == "float16" else "float16"
    return Case(work, [x.astype(source)], x.astype(work.destination))


def _change_layout(work: w.ChangeLayout, draw: Draw) -> Case:
    shape = (work.batch, work.channels, work.positions)
    if work.destination == "nchw":
        shape = (work.batch, work.positions, work.channels)
    x = draw(*shape)
    return Case(work, [x], x.transpose(0, 2, 1).astype(np.float64))


_MAKERS: dict[str, Callable[[Any, Draw], Case]] = {
    "pointwise": _pointwise,
    "gated_pointwise": _gated_pointwise,
    "depthwise": _depthwise,
    "separable": _separable,
    "convolution": _convolution,
    "pool": _pool,
    "global_pool": _global_pool,
    "scale_channels": _scale_channels,
    "scale_weights": _scale_weights,
    "add": _add,
    "activate": _activate,
    "cast": _cast,
    "change_layout": _change_layout,
}
