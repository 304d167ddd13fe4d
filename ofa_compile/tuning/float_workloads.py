"""Layers -> workloads on floats or halves, on a CPU or a GPU (see `layer_workloads`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ofa_compile.compiler.workload import (
    Add,
    Convolution,
    Depthwise,
    GatedPointwise,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    Workload,
)
from ofa_compile.hardware.target_spec import Family
from ofa_compile.space.layer_spec import LayerSpec


def float_workloads(layers: Sequence[LayerSpec], family: Family, batch: int) -> list[Workload]:
    """Return the workloads of consecutive layers (whole blocks).

    What scales packed weights (`ScaleWeights`) depends on the configuration of the convolution
    that reads them, so it is not listed: every `Pointwise` with dynamic weights has one before it.
    """
    found: list[Workload] = []
    is_scaled = False  # the next convolution reads weights that squeeze-excite scaled
    shortcuts = blocks_with_shortcut(layers)
    for index, layer in enumerate(layers):
        match layer.kind:
            case "pointwise":
                has_shortcut = (layer.stage, layer.block) in shortcuts
                product = read_pointwise(layer, has_shortcut, is_scaled, batch)
                found.append(_gated(product, batch) if family == "gpu" else product)
                is_scaled = False
            case "squeeze_excite":
                reader = layers[index + 1]
                is_scaled = family == "gpu" or (batch == 1 and _scales_weights(layer, reader))
                found.extend(_squeeze_excite(layer, is_scaled, batch))
            case "conv":
                found.extend(read_convolution(layer, batch))
            case _:
                found.append(read_other(layer, batch))
    return found


def blocks_with_shortcut(layers: Sequence[LayerSpec]) -> set[tuple[int, int]]:
    """Return (stage, block) of the blocks with convolutions on their residual branch."""
    return {(layer.stage, layer.block) for layer in layers if layer.is_shortcut}


def read_pointwise(layer: LayerSpec, has_shortcut: bool, is_scaled: bool, batch: int) -> Pointwise:
    """Read a pointwise layer; of two that are added, the first computed takes the sum.

    In a ResNet block that changes the shape that is the shortcut: it absorbs the addition and the
    activation behind it, and the block's last convolution is left without both.
    """
    activation, has_residual = layer.activation, layer.has_residual
    if layer.is_shortcut:
        activation, has_residual = "relu", True
    elif has_shortcut and has_residual:
        activation, has_residual = "none", False
    rows = batch * layer.out_size * layer.out_size
    return Pointwise(
        rows, layer.in_channels, layer.out_channels, activation, has_residual, is_scaled
    )


def _gated(product: Pointwise, batch: int) -> Pointwise:
    """Return what a GPU makes of a product: it applies the gate as it reads the map."""
    if not product.has_dynamic_weights:
        return product
    fields = dataclasses.asdict(product) | {"has_dynamic_weights": False}
    return GatedPointwise(**fields, batch=batch)


def _scales_weights(squeeze: LayerSpec, reader: LayerSpec) -> bool:
    """Whether the gate multiplies the next convolution's weights: they must be the smaller."""
    return squeeze.out_size * squeeze.out_size > reader.out_channels


def _squeeze_excite(layer: LayerSpec, is_scaled: bool, batch: int) -> Iterator[Workload]:
    positions = layer.out_size * layer.out_size
    yield GlobalPool(batch, positions, layer.in_channels)
    yield Pointwise(batch, layer.in_channels, layer.hidden_channels, "relu")
    yield Pointwise(batch, layer.hidden_channels, layer.out_channels, "hsigmoid")
    if not is_scaled:
        yield ScaleChannels(batch, positions, layer.out_channels)


def read_convolution(layer: LayerSpec, batch: int) -> Iterator[Workload]:
    """Read a dense convolution; a residual (in ResNet's stem) comes behind the activation."""
    yield Convolution(
        **_window(layer, batch),
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        activation=layer.activation,
        # Only the network's own input is channels-first, and it alone has three channels.
        input_layout="nchw" if layer.in_channels == 3 else "nhwc",
    )
    if layer.has_residual:
        yield Add(batch * layer.out_size * layer.out_size * layer.out_channels)


def read_other(layer: LayerSpec, batch: int) -> Workload:
    """Read a layer that is one workload whatever is around it."""
    match layer.kind:
        case "depthwise":
            return Depthwise(
                **_window(layer, batch), channels=layer.out_channels, activation=layer.activation
            )
        case "global_pool":
            return GlobalPool(batch, layer.in_size * layer.in_size, layer.in_channels)
        case "linear":
            return Pointwise(batch, layer.in_channels, layer.out_channels, layer.activation)
        case "max_pool":
            return Pool(**_window(layer, batch), channels=layer.out_channels, reduction="max")
        case "avg_pool":
            # No padding, but the incomplete windows of ceil mode read past the edge.
            grown = layer.out_size * layer.stride - layer.in_size
            window = {**_window(layer, batch), "padding": (0, 0, grown, grown)}
            return Pool(**window, channels=layer.out_channels, reduction="mean")
        case _:
            msg = f"layer of kind {layer.kind}"
            raise AssertionError(msg)


def _window(layer: LayerSpec, batch: int) -> dict[str, Any]:
    pad = layer.kernel_size // 2
    return {
        "batch": batch,
        "height": layer.in_size,
        "width": layer.in_size,
        "kernel": (layer.kernel_size, layer.kernel_size),
        "stride": (layer.stride, layer.stride),
        "padding": (pad, pad, pad, pad),
    }
