"""What a subnet costs, from its architecture alone: nothing is built.

Every function takes the search space explicitly or, without one, looks it up by the
architecture's own `space` name.
"""

from __future__ import annotations

from collections.abc import Iterable

from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import LayerSpec
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace


def _layers(
    architecture: Architecture, space: SearchSpace | None, num_classes: int | None
) -> list[LayerSpec]:
    known = space if space is not None else search_space(architecture.space)
    return known.layers(architecture, num_classes)


def macs(
    architecture: Architecture,
    *,
    space: SearchSpace | None = None,
    num_classes: int | None = None,
) -> int:
    """Count the multiply-accumulate operations of one image.

    Convolutions (squeeze-excite's included) and the classifier count; pooling, activations and
    additions do not, as in the Once-for-All paper.
    """
    return sum(layer.macs for layer in _layers(architecture, space, num_classes))


def num_parameters(
    architecture: Architecture,
    *,
    space: SearchSpace | None = None,
    num_classes: int | None = None,
) -> int:
    """Count the learnable parameters, as PyTorch does for the extracted subnet."""
    return sum(layer.parameters for layer in _layers(architecture, space, num_classes))


def weight_bytes(
    architecture: Architecture,
    *,
    space: SearchSpace | None = None,
    num_classes: int | None = None,
) -> int:
    """Return the size of the deployed float32 weights, batch norm folded into convolutions."""
    return sum(layer.weight_bytes for layer in _layers(architecture, space, num_classes))


def activation_peak_bytes(
    architecture: Architecture,
    *,
    space: SearchSpace | None = None,
    num_classes: int | None = None,
) -> int:
    """Return the largest sum of float32 activations that live at one moment, at batch 1.

    Layers run in order and each is one fused operation: its input, its output and a residual
    that a later layer of the block adds are alive together. Squeeze-excite scales in place.
    """
    return peak_bytes(_layers(architecture, space, num_classes))


def peak_bytes(layers: Iterable[LayerSpec]) -> int:
    """Return the activation peak of consecutive layers, of a whole subnet or of some blocks."""
    peak = 0
    held = 0  # a residual waiting for its addition
    block_input = 0  # read again by the main branch after the shortcut
    for layer in layers:
        live = layer.input_bytes + held
        if layer.kind != "squeeze_excite":
            live += layer.output_bytes
        if layer.is_shortcut:
            if block_input:
                # The shortcut's own intermediate result dies here; the block's input does not.
                live += block_input - held
            else:
                block_input = layer.input_bytes
            held = layer.output_bytes
        else:
            block_input = 0
            if layer.keeps_input:
                held = layer.input_bytes
            if layer.has_residual:
                held = 0
        peak = max(peak, live)
    return peak
