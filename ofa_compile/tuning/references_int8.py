"""Random data and reference results for the workloads on bytes: exact sums, then the epilogue.

Bytes are uint8 here, whatever a machine stores; `cases.stored` says how it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler import workload as w
from ofa_compile.compiler.int8.epilogue import Layer, apply_epilogue, make_epilogue
from ofa_compile.compiler.int8.scheme import LEVELS, Bytes, Int8Weight, Quantisation
from ofa_compile.tuning.references import Case, windows

Array = NDArray[Any]


def make_int8_case(workload: w.Workload, rng: np.random.Generator) -> Case:
    """Draw data and compute what the kernel should return, as uint8 or float32."""
    return INT8_MAKERS[workload.kind](workload, rng)


def draw_bytes(rng: np.random.Generator, *shape: int) -> Bytes:
    """Draw any bytes."""
    return rng.integers(0, LEVELS + 1, shape).astype(np.uint8)


def draw_quantisation(rng: np.random.Generator, channels: int) -> Quantisation:
    """Draw scales and zero points of a value."""
    scale = rng.uniform(0.01, 0.05, channels)
    return Quantisation(scale, rng.integers(0, 200, channels).astype(np.int32))


def _draw_layer(
    rng: np.random.Generator, work: Any, shape: tuple[int, ...], input_zero: Array
) -> Layer:
    """Draw weights so that the outputs spread over the whole range of bytes."""
    outputs, products = shape[0], int(np.prod(shape[1:]))
    values = rng.integers(-127, 128, shape).astype(np.int8)
    scale = rng.uniform(0.5, 1.5, outputs) / (5000 * np.sqrt(products))
    is_bytes = getattr(work, "writes", "bytes") == "bytes"
    return Layer(
        weight=Int8Weight(values, scale),
        bias=rng.standard_normal(outputs),
        activation=work.activation,
        input_zero=input_zero,
        residual=draw_quantisation(rng, outputs) if getattr(work, "has_residual", False) else None,
        output=draw_quantisation(rng, outputs) if is_bytes else None,
    )


def _as_bytes(steps: Array) -> Bytes:
    return np.clip(np.rint(steps), 0, LEVELS).astype(np.uint8)


def _pointwise(work: w.PointwiseInt8, rng: np.random.Generator) -> Case:
    x = draw_bytes(rng, work.rows, work.in_channels)
    zero = rng.integers(0, 256, (1, work.in_channels))
    layer = _draw_layer(rng, work, (work.out_channels, work.in_channels), zero)
    inputs, residual = [x], None
    if work.has_residual:
        residual = draw_bytes(rng, work.rows, work.out_channels)
        inputs.append(residual)
    # Doubles hold the sums exactly, and are multiplied much faster than integers.
    sums = x.astype(np.float64) @ layer.weight.values.T.astype(np.float64)
    steps = apply_epilogue(sums, make_epilogue(layer), work.activation, residual)
    expected = _as_bytes(steps) if work.writes == "bytes" else steps
    return Case(work, inputs, expected, {"layer": layer})


def _depthwise(work: w.DepthwiseInt8, rng: np.random.Generator) -> Case:
    x = draw_bytes(rng, work.batch, work.height, work.width, work.channels)
    zero = rng.integers(0, 256, (work.channels, 1))
    layer = _draw_layer(rng, work, (work.channels, 1, *work.kernel), zero)
    # Padding has the value of the zero point: without it, and added to every sum, it is zero.
    without_zero = x.astype(np.float64) - zero.ravel()
    taps = layer.weight.values.reshape(work.channels, -1).T.astype(np.float64)
    sums = taps.sum(axis=0) * zero.ravel()
    for seen, factor in zip(windows(without_zero, work, 0.0), taps, strict=True):
        sums = sums + seen * factor
    steps = apply_epilogue(sums, make_epilogue(layer), work.activation)
    return Case(work, [x], _as_bytes(steps), {"layer": layer})


def _global_pool(work: w.GlobalPoolInt8, rng: np.random.Generator) -> Case:
    source = draw_quantisation(rng, work.channels)
    data = draw_bytes(rng, work.batch, work.positions, work.channels)
    mean = _real(data, source).mean(axis=1)
    return Case(work, [data], mean.astype(np.float32), {"input": source})


def _scale_channels(work: w.ScaleChannelsInt8, rng: np.random.Generator) -> Case:
    source, result = (draw_quantisation(rng, work.channels) for _ in range(2))
    data = draw_bytes(rng, work.batch, work.positions, work.channels)
    gate = rng.uniform(0, 1, (work.batch, 1, work.channels)).astype(np.float32)
    scaled = _real(data, source) * gate / result.scale + result.zero_point
    return Case(work, [data, gate], _as_bytes(scaled), {"input": source, "output": result})


def _quantise(work: w.Quantise, rng: np.random.Generator) -> Case:
    scheme = draw_quantisation(rng, work.channels)
    x = rng.standard_normal((work.positions, work.channels), dtype=np.float32)
    steps = x.astype(np.float64) * np.float32(1 / scheme.scale) + scheme.zero_point
    return Case(work, [x], _as_bytes(steps), {"output": scheme})


def _dequantise(work: w.Dequantise, rng: np.random.Generator) -> Case:
    scheme = draw_quantisation(rng, work.channels)
    data = draw_bytes(rng, work.positions, work.channels)
    return Case(work, [data], scheme.to_floats(data), {"input": scheme})


def _real(data: Bytes, scheme: Quantisation) -> Array:
    return (data.astype(np.float64) - scheme.zero_point) * scheme.scale


INT8_MAKERS: dict[str, Callable[[Any, np.random.Generator], Case]] = {
    "pointwise_int8": _pointwise,
    "depthwise_int8": _depthwise,
    "global_pool_int8": _global_pool,
    "scale_channels_int8": _scale_channels,
    "quantise": _quantise,
    "dequantise": _dequantise,
}
