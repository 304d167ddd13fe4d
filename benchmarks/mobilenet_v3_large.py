"""MobileNetV3-Large as published (Howard et al., Searching for MobileNetV3, 2019, table 1).

No subnet: its expansions are no multiples of its inputs. Its layers are those of our subnets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import nn

NAME = "mobilenet-v3-large"
RESOLUTION = 224
STEM, LAST, FEATURES, CLASSES = 16, 960, 1280, 1000
EPSILON = 1e-3


class Row(NamedTuple):
    """One line of the table: a block."""

    kernel: int
    expanded: int
    out: int
    has_squeeze: bool
    activation: Literal["relu", "hswish"]
    stride: int


ROWS = (
    Row(3, 16, 16, False, "relu", 1),
    Row(3, 64, 24, False, "relu", 2),
    Row(3, 72, 24, False, "relu", 1),
    Row(5, 72, 40, True, "relu", 2),
    Row(5, 120, 40, True, "relu", 1),
    Row(5, 120, 40, True, "relu", 1),
    Row(3, 240, 80, False, "hswish", 2),
    Row(3, 200, 80, False, "hswish", 1),
    Row(3, 184, 80, False, "hswish", 1),
    Row(3, 184, 80, False, "hswish", 1),
    Row(3, 480, 112, True, "hswish", 1),
    Row(3, 672, 112, True, "hswish", 1),
    Row(5, 672, 160, True, "hswish", 2),
    Row(5, 960, 160, True, "hswish", 1),
    Row(5, 960, 160, True, "hswish", 1),
)


def squeezed(channels: int) -> int:
    """Return the hidden channels of squeeze-excite: a quarter, as a multiple of 8."""
    return max(8, (channels // 4 + 4) // 8 * 8)


def num_macs() -> int:
    """Return its multiply-accumulates."""
    size, channels = RESOLUTION // 2, STEM
    total = size**2 * 27 * STEM
    for row in ROWS:
        if row.expanded != channels:
            total += size**2 * channels * row.expanded
        size //= row.stride
        total += size**2 * row.expanded * (row.kernel**2 + row.out)
        if row.has_squeeze:
            total += 2 * row.expanded * squeezed(row.expanded)
        channels = row.out
    return total + size**2 * channels * LAST + LAST * FEATURES + FEATURES * CLASSES


def build() -> nn.Module:
    """Return the network with random weights, in evaluation mode."""
    import torch
    from torch import nn

    from ofa_compile.supernet.subnet import (
        Classifier,
        InvertedResidual,
        ResidualBlock,
        conv_layer,
    )

    torch.manual_seed(0)
    layers: list[nn.Module] = [
        conv_layer(3, STEM, 3, stride=2, activation="hswish", bn_epsilon=EPSILON)
    ]
    channels = STEM
    for row in ROWS:
        block = InvertedResidual(
            channels, row.expanded, row.out,
            kernel_size=row.kernel, stride=row.stride, activation=row.activation,
            has_expand=row.expanded != channels,
            squeeze_channels=squeezed(row.expanded) if row.has_squeeze else None,
            bn_epsilon=EPSILON,
        )  # fmt: skip
        layers.append(ResidualBlock(block, has_residual=row.stride == 1 and channels == row.out))
        channels = row.out
    layers += [
        conv_layer(channels, LAST, activation="hswish", bn_epsilon=EPSILON),
        nn.AdaptiveAvgPool2d(1),
        conv_layer(LAST, FEATURES, activation="hswish", bn_epsilon=None),
        Classifier(FEATURES, CLASSES),
    ]
    return nn.Sequential(*layers).eval()
