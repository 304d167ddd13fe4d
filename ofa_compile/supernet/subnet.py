"""Static networks: what `Supernet.extract` returns, and the fixed parts of a supernet.

Only plain PyTorch modules, additions and products, so that torch.fx traces them. Parameter names
are those of the authors' specialised networks.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ofa_compile.space.architecture import Architecture
from ofa_compile.space.layer_spec import Activation
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.resnet import ResNetSpace
from ofa_compile.supernet.functional import activation_module, one_thread


def compute_logits(module: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run PyTorch on inputs (N, 3, H, W), one at a time: the compiled batch is 1."""
    with torch.inference_mode(), one_thread():
        rows = [module(torch.from_numpy(inputs[i : i + 1])).numpy() for i in range(len(inputs))]
    return np.concatenate(rows).astype(np.float32)


def conv_layer(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Activation = "none",
    bn_epsilon: float | None = 1e-5,
) -> nn.Sequential:
    """Return convolution, batch norm (unless `bn_epsilon` is None) and activation."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        kernel_size // 2,
        groups=groups,
        bias=False,
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if bn_epsilon is not None:
        layers["bn"] = nn.BatchNorm2d(out_channels, eps=bn_epsilon)
    act = activation_module(activation)
    if act is not None:
        layers["act"] = act
    return nn.Sequential(layers)


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the channel means."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(channels, hidden_channels, 1),
                relu=nn.ReLU(),
                expand=nn.Conv2d(hidden_channels, channels, 1),
                h_sigmoid=nn.Hardsigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale `x` of shape (N, C, H, W)."""
        gate: Tensor = self.fc(self.pool(x))
        return x * gate


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-excite (after the activation), project."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        activation: Activation = "relu",
        has_expand: bool = True,
        squeeze_channels: int | None = None,
        bn_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.inverted_bottleneck = (
            conv_layer(in_channels, mid_channels, activation=activation, bn_epsilon=bn_epsilon)
            if has_expand
            else None
        )
        self.depth_conv = conv_layer(
            mid_channels,
            mid_channels,
            kernel_size,
            stride=stride,
            groups=mid_channels,
            activation=activation,
            bn_epsilon=bn_epsilon,
        )
        if squeeze_channels is not None:
            self.depth_conv.add_module("se", SqueezeExcite(mid_channels, squeeze_channels))
        self.point_linear = conv_layer(mid_channels, out_channels, bn_epsilon=bn_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        if self.inverted_bottleneck is not None:
            x = self.inverted_bottleneck(x)
        y: Tensor = self.point_linear(self.depth_conv(x))
        return y


class ResidualBlock(nn.Module):
    """Add the input to the output of a module, where the shapes allow it."""

    def __init__(self, conv: nn.Module, *, has_residual: bool) -> None:
        super().__init__()
        self.conv = conv
        self.has_residual = has_residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        y: Tensor = self.conv(x)
        return y + x if self.has_residual else y


class Classifier(nn.Module):
    """Flatten, then one linear layer."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features of shape (N, C, 1, 1) to logits of shape (N, classes)."""
        y: Tensor = self.linear(self.flatten(x))
        return y


class MobileNetSubnet(nn.Module):
    """A static MobileNetV3 or ProxylessNAS network of one architecture."""

    def __init__(self, space: MobileNetSpace, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        eps = space.bn_epsilon
        self.first_conv = mobilenet_stem(space)
        blocks: list[nn.Module] = [mobilenet_first_block(space)]
        for stage, (kernels, ratios) in enumerate(
            zip(architecture.kernel_sizes, architecture.expand_ratios, strict=True)
        ):
            for block, (kernel, ratio) in enumerate(zip(kernels, ratios, strict=True)):
                in_channels = space.block_in_channels(stage, block)
                mid = space.mid_channels(in_channels, ratio)
                conv = InvertedResidual(
                    in_channels,
                    mid,
                    space.stage_widths[stage],
                    kernel_size=kernel,
                    stride=space.block_stride(stage, block),
                    activation=space.stage_activations[stage],
                    squeeze_channels=(
                        space.squeeze_channels(mid) if space.stage_use_se[stage] else None
                    ),
                    bn_epsilon=eps,
                )
                has_residual = space.block_has_residual(stage, block)
                blocks.append(ResidualBlock(conv, has_residual=has_residual))
        self.blocks = nn.Sequential(*blocks)
        self.final_expand_layer = mobilenet_final_expand(space)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.feature_mix_layer = mobilenet_feature_mix(space)
        self.classifier = Classifier(space.last_width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (N, 3, H, W) to logits of shape (N, classes)."""
        x = self.blocks(self.first_conv(x))
        if self.final_expand_layer is not None:
            x = self.feature_mix_layer(self.global_pool(self.final_expand_layer(x)))
        else:
            x = self.global_pool(self.feature_mix_layer(x))
        y: Tensor = self.classifier(x)
        return y


def mobilenet_stem(space: MobileNetSpace) -> nn.Sequential:
    """Return the first convolution."""
    return conv_layer(
        3,
        space.stem_width,
        3,
        stride=space.stem_stride,
        activation=space.stem_activation,
        bn_epsilon=space.bn_epsilon,
    )


def mobilenet_first_block(space: MobileNetSpace) -> ResidualBlock:
    """Return the fixed first block: 3x3, no expansion, no squeeze-excite."""
    conv = InvertedResidual(
        space.stem_width,
        space.stem_width,
        space.first_width,
        activation=space.first_activation,
        has_expand=False,
        bn_epsilon=space.bn_epsilon,
    )
    return ResidualBlock(conv, has_residual=space.first_has_residual)


def mobilenet_final_expand(space: MobileNetSpace) -> nn.Sequential | None:
    """Return the pointwise layer before the pooling; None for ProxylessNAS."""
    if space.final_expand_width is None:
        return None
    return conv_layer(
        space.stage_widths[-1],
        space.final_expand_width,
        activation=space.head_activation,
        bn_epsilon=space.bn_epsilon,
    )


def mobilenet_feature_mix(space: MobileNetSpace) -> nn.Sequential:
    """Return the layer that computes the classifier's features."""
    if space.final_expand_width is None:
        in_channels, bn_epsilon = space.stage_widths[-1], space.bn_epsilon
    else:
        in_channels, bn_epsilon = space.final_expand_width, None
    return conv_layer(
        in_channels, space.last_width, activation=space.head_activation, bn_epsilon=bn_epsilon
    )


class Bottleneck(nn.Module):
    """ResNet50D bottleneck: 1x1, 3x3 with the stride, 1x1, addition, activation."""

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        has_downsample: bool,
        bn_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        eps = bn_epsilon
        self.conv1 = conv_layer(in_channels, mid_channels, activation="relu", bn_epsilon=eps)
        self.conv2 = conv_layer(
            mid_channels, mid_channels, 3, stride=stride, activation="relu", bn_epsilon=eps
        )
        self.conv3 = conv_layer(mid_channels, out_channels, bn_epsilon=eps)
        self.downsample: nn.Sequential | None = None
        if has_downsample:
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            if stride > 1:
                layers["avg_pool"] = nn.AvgPool2d(stride, stride, ceil_mode=True)
            layers["conv"] = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            layers["bn"] = nn.BatchNorm2d(out_channels, eps=eps)
            self.downsample = nn.Sequential(layers)
        self.final_act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H / stride, W / stride)."""
        residual = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.final_act(self.conv3(self.conv2(self.conv1(x))) + residual)
        return y


class ResNetSubnet(nn.Module):
    """A static ResNet50D of one architecture."""

    def __init__(self, space: ResNetSpace, architecture: Architecture, num_classes: int) -> None:
        super().__init__()
        eps = space.bn_epsilon
        mid, channels, stage_widths = space.widths(architecture)
        stem: list[nn.Module] = [conv_layer(3, mid, 3, stride=2, activation="relu", bn_epsilon=eps)]
        if architecture.stem_depth:
            conv = conv_layer(mid, mid, 3, activation="relu", bn_epsilon=eps)
            stem.append(ResidualBlock(conv, has_residual=True))
        stem.append(conv_layer(mid, channels, 3, activation="relu", bn_epsilon=eps))
        self.input_stem = nn.Sequential(*stem)
        self.max_pooling = nn.MaxPool2d(3, 2, 1)
        blocks = []
        for stage, (ratios, width) in enumerate(
            zip(architecture.expand_ratios, stage_widths, strict=True)
        ):
            for block, ratio in enumerate(ratios):
                bottleneck = Bottleneck(
                    channels,
                    space.mid_channels(width, ratio),
                    width,
                    stride=space.block_stride(stage, block),
                    has_downsample=block == 0,
                    bn_epsilon=eps,
                )
                blocks.append(bottleneck)
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = Classifier(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (N, 3, H, W) to logits of shape (N, classes)."""
        x = self.blocks(self.max_pooling(self.input_stem(x)))
        y: Tensor = self.classifier(self.global_pool(x))
        return y
