"""Layers -> workloads on bytes, and what stays in floats between them (see `layer_workloads`).

The rules of `compiler.int8.quantise` for our spaces: pointwise and depthwise convolutions work on
bytes, and so do products whose sizes are multiples of four, as all but some classifiers' are. Dense
convolutions and pools do not: bytes are made of their results, where bytes are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

from ofa_compile.compiler.int8.quantise import GROUP
from ofa_compile.compiler.workload import (
    DepthwiseInt8,
    Dequantise,
    GlobalPoolInt8,
    PointwiseInt8,
    Quantise,
    ScaleChannelsInt8,
    Workload,
)
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.tuning.float_workloads import (
    blocks_with_shortcut,
    read_convolution,
    read_other,
    read_pointwise,
)

Form = Literal["bytes", "floats"]

_READ_BYTES = ("pointwise", "depthwise")
# A flattened map is another value, so that the bytes of a classifier are made in front of it.
_READ_FLOATS = ("conv", "global_pool", "linear")


def int8_workloads(
    layers: Sequence[LayerSpec], batch: int, *, feeds_pool: bool = False
) -> list[Workload]:
    """Return the workloads of consecutive layers (whole blocks).

    `feeds_pool` says that a global pool follows the last of them; otherwise more blocks do.
    """
    found: list[Workload] = []
    shortcuts = blocks_with_shortcut(layers)
    kinds = [layer.kind for layer in layers]
    following = [*kinds[1:], "global_pool" if feeds_pool else "pointwise"]
    for layer, reader in zip(layers, following, strict=True):
        match layer.kind:
            case "pointwise":
                has_shortcut = (layer.stage, layer.block) in shortcuts
                writes: Form = "floats" if reader in _READ_FLOATS else "bytes"
                found.append(_product(layer, has_shortcut, batch, writes))
            case "depthwise":
                found.append(DepthwiseInt8(**dataclasses.asdict(read_other(layer, batch))))
            case "squeeze_excite":
                found.extend(_squeeze_excite(layer, batch))
            case "linear":
                found.extend(_linear(layer, batch))
            case _:
                found.extend(_on_floats(layer, reader, batch))
    return found


def _product(layer: LayerSpec, has_shortcut: bool, batch: int, writes: Form) -> PointwiseInt8:
    product = read_pointwise(layer, has_shortcut, False, batch)
    fields = dataclasses.asdict(product)
    del fields["has_dynamic_weights"]
    return PointwiseInt8(**fields, writes=writes)


def _squeeze_excite(layer: LayerSpec, batch: int) -> Iterator[Workload]:
    positions, hidden = layer.out_size * layer.out_size, layer.hidden_channels
    yield GlobalPoolInt8(batch, positions, layer.in_channels)
    yield Quantise(batch, layer.in_channels)
    yield PointwiseInt8(batch, layer.in_channels, hidden, "relu")
    yield PointwiseInt8(batch, hidden, layer.out_channels, "hsigmoid", writes="floats")
    yield ScaleChannelsInt8(batch, positions, layer.out_channels)


def _linear(layer: LayerSpec, batch: int) -> Iterator[Workload]:
    if layer.out_channels % GROUP:
        yield read_other(layer, batch)
        return
    yield Quantise(batch, layer.in_channels)
    yield _product(layer, False, batch, "floats")


def _on_floats(layer: LayerSpec, reader: str, batch: int) -> Iterator[Workload]:
    """Read a layer that has no kernel for bytes, with conversions on both sides of it."""
    if layer.kind == "avg_pool":  # of a block's input, which its first convolution reads as bytes
        yield Dequantise(batch * layer.in_size**2, layer.in_channels)
    if layer.kind == "conv":
        yield from read_convolution(layer, batch)
    else:
        yield read_other(layer, batch)
    if reader in _READ_BYTES:
        yield Quantise(batch * layer.out_size**2, layer.out_channels)
