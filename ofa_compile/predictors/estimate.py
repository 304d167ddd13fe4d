"""Latency estimates from facts about a core: a roofline per layer, no measurement involved.

A layer takes the longer of its arithmetic and its memory traffic, plus a fixed cost per call.
This is an *estimate*: good for ranking subnets on a device that is not at hand, not for promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ofa_compile.hardware.precision import byte_products
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.predictors.slot_tables import Indices, SlotTables
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import FLOAT32_BYTES, LayerSpec
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace

# What is shown wherever an estimate is: of both models, as `bench_cycle_estimates.py` found them.
LIMITS = (
    "estimates know no caches, memory or branches beyond a few facts about the core. Next to 50 "
    "subnets measured on one x86-64 core, counted instructions were 8 % long (Spearman 0.95), and "
    "the roofline that `search` falls back on 54 % (0.99). Unchecked on any other core"
)

# Share of the core's peak that hand-scheduled kernels reach on a Zen 4 core (111-116 of 115
# GFLOP/s pointwise, 100-110 depthwise with large tiles, half of it with small ones); the rest is
# scalar or bound by memory anyway.
_EFFICIENCY = {"pointwise": 0.95, "conv": 0.7, "depthwise": 0.6, "linear": 0.5}
_DEFAULT_EFFICIENCY = 0.3
# A private second-level cache delivers about half a vector register per cycle, sustained.
_L2_VECTORS_PER_CYCLE = 0.5
_CYCLES_PER_CALL = 2000.0


class LatencyEstimator:
    """Estimate the batch-1, one-thread latency of architectures on a hardware target.

    Parameters
    ----------
    target
        The hardware target; only the facts of its core and its precision are used.
    """

    kind: ClassVar[Literal["estimate"]] = "estimate"

    def __init__(self, target: TargetSpec) -> None:
        self.target_name = target.name
        self.target_fingerprint = target.fingerprint
        self.core = target.core
        self._lanes = target.core.vector_bits // (16 if target.precision == "fp16" else 32)
        is_dot = target.precision == "int8" and byte_products(target) in ("vnni", "sdot")
        self._products_per_lane = 4 if is_dot else 1
        self._value_bytes = {"fp32": 4, "tf32": 4, "fp16": 2, "int8": 1}[target.precision]
        self._tables: dict[str, SlotTables] = {}

    def estimate(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Estimate the latency of each architecture, at any admissible resolution.

        Returns
        -------
        Milliseconds, of shape (n_architectures,), in input order.

        Raises
        ------
        ArchitectureError
            If an architecture lies outside its search space.
        """
        return np.array([self._estimate_one(architecture) for architecture in architectures])

    def predict(self, architectures: Sequence[Architecture]) -> NDArray[np.float64]:
        """Do what `estimate` does, under the name that the search uses for every figure."""
        return self.estimate(architectures)

    def predict_indices(self, space: SearchSpace, indices: Indices) -> NDArray[np.float64]:
        """Estimate architectures given as choice indices, of shape (n, genes), by table look-up."""
        if space.name not in self._tables:
            self._tables[space.name] = SlotTables(space, self._slot_row, 1)
        return self._tables[space.name].total(indices)[:, 0]

    def layer_ms(self, layer: LayerSpec) -> float:
        """Estimate one layer in milliseconds."""
        seconds = max(self._arithmetic_seconds(layer), self._memory_seconds(layer))
        return 1e3 * (seconds + _CYCLES_PER_CALL / self.core.frequency_hz)

    def _estimate_one(self, architecture: Architecture) -> float:
        """Add up the layers of one architecture."""
        space = search_space(architecture.space)
        space.validate(architecture)
        return sum(self.layer_ms(layer) for layer in space.layers(architecture))

    def _slot_row(self, layers: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return the time of one slot's layers, of shape (1,)."""
        return np.array([sum(self.layer_ms(layer) for layer in layers)])

    def _arithmetic_seconds(self, layer: LayerSpec) -> float:
        """Return the time of the multiply-adds, with unused vector lanes counted."""
        core, lanes = self.core, self._lanes
        # Vectors run along the output channels, so a channel count between multiples wastes lanes.
        padding = math.ceil(layer.out_channels / lanes) * lanes / layer.out_channels
        per_cycle = core.fma_per_cycle * lanes * self._products_per_lane
        efficiency = _EFFICIENCY.get(layer.kind, _DEFAULT_EFFICIENCY)
        return layer.macs * padding / (per_cycle * core.frequency_hz * efficiency)

    def _memory_seconds(self, layer: LayerSpec) -> float:
        """Return the time of the traffic: weights from memory, maps from the nearest level."""
        core, share = self.core, self._value_bytes / FLOAT32_BYTES
        memory = core.memory_bandwidth_gb_per_s * 1e9
        cache = max(memory, _L2_VECTORS_PER_CYCLE * core.vector_bits / 8 * core.frequency_hz)
        activations = layer.input_bytes + layer.output_bytes * (2 if layer.has_residual else 1)
        if layer.kind == "squeeze_excite":
            # Read once to pool, then read and written to scale.
            activations = 3 * layer.input_bytes
        rate = cache if share * activations <= core.l2_bytes else memory
        return share * (activations / rate + layer.weight_bytes / memory)
