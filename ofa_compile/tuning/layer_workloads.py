"""Layers of one block -> the workloads that the compiler makes of them.

States the fusion rules of `compiler.passes` and the lowerings for the layers that our search spaces
are made of, so that workloads can be listed without a network; a test compares both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ofa_compile.compiler.workload import Cast, Workload
from ofa_compile.hardware.target_spec import Family
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.tuning.float_workloads import float_workloads
from ofa_compile.tuning.int8_workloads import int8_workloads

_IMAGE_CHANNELS = 3


def workloads_of(
    layers: Sequence[LayerSpec],
    family: Family = "cpu",
    batch: int = 1,
    precision: str = "fp32",
    *,
    feeds_pool: bool = False,
) -> list[Workload]:
    """Return the workloads of consecutive layers (whole blocks).

    Parameters
    ----------
    layers
        A network's, or those of some blocks.
    family, batch, precision
        What they run on, how many images at a time, in which numbers.
    feeds_pool
        Whether a global pool follows the last of them; only int8 makes a difference of it.
    """
    if precision == "int8":
        return int8_workloads(layers, batch, feeds_pool=feeds_pool)
    found = float_workloads(layers, family, batch)
    return [*found, *_casts(layers, batch)] if precision == "fp16" else found


def _casts(layers: Sequence[LayerSpec], batch: int) -> Iterator[Workload]:
    """Yield the conversions of image and logits, where these layers read or write them."""
    for layer in layers:
        if layer.kind == "conv" and layer.in_channels == _IMAGE_CHANNELS:
            yield Cast(batch * _IMAGE_CHANNELS * layer.in_size**2, "float16")
        elif layer.kind == "linear":
            yield Cast(batch * layer.out_channels, "float32")
