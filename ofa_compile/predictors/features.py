"""Analytic latency features: what the layers of an architecture have to do, block by block.

Nothing here is fitted. The features of a block are sums over its layers, so those of a network are
sums over its blocks, gathered from `SlotTables` for whole populations. Beside them stand anchors:
figures that are latencies already, such as the sum of the kernels' measured times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ofa_compile.predictors.kernel_times import KernelTimes
from ofa_compile.predictors.slot_tables import Indices, SlotTables
from ofa_compile.space.layer_spec import FLOAT32_BYTES, LayerSpec
from ofa_compile.space.search_space import SearchSpace

FEATURES = (
    "pointwise_macs",
    "conv_macs",
    "depthwise_macs",
    "depthwise_outputs",
    "activations",
    "weights",
    "squeeze_excite_inputs",
    "num_layers",
)
NUM_FEATURES = len(FEATURES)

# Counts are in millions, so that all features are of the order of one.
_MILLION = 1e6
_CHUNK = 8192


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some architectures.

    Attributes
    ----------
    totals
        Sums over the network, of shape (n, NUM_FEATURES).
    shape
        Resolution in hundreds of pixels and number of blocks, of shape (n, 2).
    per_slot
        Every slot's features, of shape (n, columns); no columns if not asked for.
    anchors
        Latencies in milliseconds that other sources give, of shape (n, num_anchors).
    """

    totals: NDArray[np.float64]
    shape: NDArray[np.float64]
    per_slot: NDArray[np.float64]
    anchors: NDArray[np.float64]

    def rows(self, rows: NDArray[np.int64]) -> FeatureBatch:
        """Return some of the architectures' features."""
        return FeatureBatch(
            self.totals[rows], self.shape[rows], self.per_slot[rows], self.anchors[rows]
        )

    @property
    def summary(self) -> NDArray[np.float64]:
        """Totals and shape side by side, of shape (n, NUM_FEATURES + 2)."""
        return np.concatenate([self.totals, self.shape], axis=1)


class LatencyFeatures:
    """Computes the features of architectures of one space.

    Parameters
    ----------
    space
        The search space.
    kernel_times
        Measured times of its kernels; their sum is then an anchor.
    other
        Turns choice indices into latencies that are a second anchor: another device's.
    """

    def __init__(
        self,
        space: SearchSpace,
        kernel_times: KernelTimes | None = None,
        other: Callable[[Indices], NDArray[np.float64]] | None = None,
    ) -> None:
        self.space = space
        self._kernel_times, self._other = kernel_times, other
        self.tables = SlotTables(space, slot_features, NUM_FEATURES)
        self.num_slots = len(self.tables.slots)
        self._resolutions = np.array(space.resolutions) / 100.0

    def batch(self, indices: Indices, *, with_slots: bool = True) -> FeatureBatch:
        """Return the features of architectures given as choice indices, of shape (n, genes)."""
        shape = np.stack(
            [
                self._resolutions[indices[:, 0]],
                self.space.num_active_blocks(indices).sum(axis=1).astype(np.float64),
            ],
            axis=1,
        )
        slots, anchors = [np.empty((len(indices), 0))], [np.empty((len(indices), 0))]
        if with_slots:
            per_slot = self.tables.per_slot(indices)
            totals = per_slot.sum(axis=1)
            slots.append(per_slot.reshape(len(indices), -1))
        else:
            totals = self.tables.total(indices)
        if self._kernel_times is not None:
            kernels = self._kernel_times.per_slot(indices)
            anchors.append(kernels.sum(axis=1, keepdims=True))
            slots += [kernels] if with_slots else []
        if self._other is not None:
            anchors.append(self._other(indices)[:, None])
        parts = (np.concatenate(columns, axis=1) for columns in (slots, anchors))
        return FeatureBatch(totals, shape, *parts)


def slot_features(layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
    """Return the features of one slot's layers, of shape (NUM_FEATURES,)."""
    row = np.zeros(NUM_FEATURES)
    for layer in layers:
        row += layer_features(layer)
    return row


def layer_features(layer: LayerSpec) -> NDArray[np.float64]:
    """Return one layer's share of every feature, of shape (NUM_FEATURES,)."""
    outputs = layer.output_bytes / FLOAT32_BYTES / _MILLION
    inputs = layer.input_bytes / FLOAT32_BYTES / _MILLION
    macs = layer.macs / _MILLION
    is_depthwise, is_squeeze = layer.kind == "depthwise", layer.kind == "squeeze_excite"
    return np.array(
        [
            macs if layer.kind in ("pointwise", "linear") else 0.0,
            macs if layer.kind == "conv" else 0.0,
            macs if is_depthwise else 0.0,
            outputs if is_depthwise else 0.0,
            inputs + outputs * (2 if layer.has_residual else 1),
            layer.weight_bytes / FLOAT32_BYTES / _MILLION,
            inputs if is_squeeze else 0.0,
            1.0,
        ]
    )


def chunks(indices: Indices, size: int = _CHUNK) -> Iterator[Indices]:
    """Split a population so that intermediate arrays stay in the cache."""
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
