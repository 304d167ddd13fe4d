"""The pure description of one layer of a subnet: pivot of costs, features, estimates, workloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LayerKind = Literal[
    "conv",
    "pointwise",
    "depthwise",
    "squeeze_excite",
    "global_pool",
    "linear",
    "max_pool",
    "avg_pool",
]
Activation = Literal["none", "relu", "relu6", "hswish"]
Normalization = Literal["batch_norm", "bias", "none"]

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of a subnet in execution order, batch 1, square images.

    Attributes
    ----------
    name
        Where the layer is, for instance ``blocks.3.depthwise``; blocks count in execution order.
    kind
        Operator; `pointwise` is a 1x1 convolution of stride 1.
    in_channels, out_channels
        Channels in and out.
    kernel_size, stride
        Window and step; padding is ``kernel_size // 2`` except for `avg_pool` (none, ceil mode).
    in_size, out_size
        Height (= width) of input and output in pixels.
    activation
        Applied to the output (to the sum, in ResNet blocks that end with an addition).
    has_residual
        A residual tensor of the output's shape is added to the output.
    hidden_channels
        Middle channels of `squeeze_excite`, otherwise 0.
    stage, block
        Elastic stage (-1 for stem and first block, number of stages for the head) and the
        position inside it.
    normalization
        What follows the weights: batch norm (two parameters a channel), a bias, or nothing.
    is_shortcut
        The layer lies on the residual branch (ResNet down-sampling) and runs before the main one.
    keeps_input
        A later layer adds this layer's input as its residual.
    """

    name: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    in_size: int
    out_size: int
    activation: Activation = "none"
    has_residual: bool = False
    hidden_channels: int = 0
    stage: int = -1
    block: int = 0
    normalization: Normalization = "none"
    is_shortcut: bool = False
    keeps_input: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutions and matrix products."""
        pixels = self.out_size * self.out_size
        match self.kind:
            case "conv" | "pointwise" | "linear":
                return pixels * self.num_weights
            case "depthwise":
                return pixels * self.num_weights
            case "squeeze_excite":
                return self.num_weights
            case _:
                return 0

    @property
    def num_weights(self) -> int:
        """Elements of the weight tensors, without biases and batch norm."""
        match self.kind:
            case "conv" | "pointwise" | "linear":
                return self.in_channels * self.out_channels * self.kernel_size**2
            case "depthwise":
                return self.out_channels * self.kernel_size**2
            case "squeeze_excite":
                return 2 * self.in_channels * self.hidden_channels
            case _:
                return 0

    @property
    def parameters(self) -> int:
        """Learnable parameters, as PyTorch counts them (batch norm: weight and bias)."""
        if self.kind == "squeeze_excite":
            return self.num_weights + self.hidden_channels + self.in_channels
        extra = {"batch_norm": 2, "bias": 1, "none": 0}[self.normalization]
        return self.num_weights + extra * self.out_channels

    @property
    def folded_parameters(self) -> int:
        """Parameters after batch norm is folded into the weights: one bias a channel."""
        if self.normalization == "batch_norm":
            return self.num_weights + self.out_channels
        return self.parameters

    @property
    def input_bytes(self) -> int:
        """Size of the float32 input (without the residual)."""
        return FLOAT32_BYTES * self.in_channels * self.in_size**2

    @property
    def output_bytes(self) -> int:
        """Size of the float32 output."""
        return FLOAT32_BYTES * self.out_channels * self.out_size**2

    @property
    def weight_bytes(self) -> int:
        """Size of the float32 weights with batch norm folded."""
        return FLOAT32_BYTES * self.folded_parameters


def make_divisible(value: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of `divisor`, never below 90 % of it.

    The rounding of the Once-for-All authors (and of MobileNet before them): to the nearest
    multiple, halves up, at least one multiple.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def halved(size: int, stride: int) -> int:
    """Return the output size of a same-padded window of that stride."""
    return (size - 1) // stride + 1
