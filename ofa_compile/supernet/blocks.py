"""Elastic blocks: inverted residual and ResNet bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_compile.space.layer_spec import Activation
from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.resnet import ResNetSpace
from ofa_compile.supernet.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    ElasticSqueezeExcite,
)
from ofa_compile.supernet.functional import activation_function


class ElasticConvLayer(nn.Module):
    """Elastic convolution, batch norm, activation."""

    def __init__(
        self,
        max_in_channels: int,
        max_out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        activation: Activation = "none",
        bn_epsilon: float,
    ) -> None:
        super().__init__()
        self.conv = ElasticConv2d(max_in_channels, max_out_channels, kernel_size, stride)
        self.bn = ElasticBatchNorm2d(max_out_channels, bn_epsilon)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """Compute the first `out_channels` outputs."""
        return self.activation(self.bn(self.conv(x, out_channels)))


class ElasticDepthwiseLayer(nn.Module):
    """Elastic depthwise convolution, batch norm, activation, squeeze-excite."""

    def __init__(self, space: MobileNetSpace, stage: int, stride: int, max_channels: int) -> None:
        super().__init__()
        self.conv = ElasticDepthwiseConv2d(max_channels, space.kernel_size_choices, stride)
        self.bn = ElasticBatchNorm2d(max_channels, space.bn_epsilon)
        self.activation = activation_function(space.stage_activations[stage])
        self.squeeze_channels = space.squeeze_channels
        self.se = (
            ElasticSqueezeExcite(max_channels, space.squeeze_channels(max_channels))
            if space.stage_use_se[stage]
            else None
        )

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        """Apply the first C channels, C being those of `x`."""
        x = self.activation(self.bn(self.conv(x, kernel_size)))
        if self.se is not None:
            x = self.se(x, self.squeeze_channels(x.shape[1]))
        return x


class ElasticInvertedResidual(nn.Module):
    """Inverted residual with elastic kernel size and expand ratio."""

    def __init__(self, space: MobileNetSpace, stage: int, block: int) -> None:
        super().__init__()
        self.in_channels = space.block_in_channels(stage, block)
        self.out_channels = space.stage_widths[stage]
        self.mid_channels = space.mid_channels
        max_mid = self.mid_channels(self.in_channels, max(space.expand_ratio_choices))
        self.inverted_bottleneck = ElasticConvLayer(
            self.in_channels,
            max_mid,
            activation=space.stage_activations[stage],
            bn_epsilon=space.bn_epsilon,
        )
        stride = space.block_stride(stage, block)
        self.depth_conv = ElasticDepthwiseLayer(space, stage, stride, max_mid)
        self.point_linear = ElasticConvLayer(
            max_mid, self.out_channels, bn_epsilon=space.bn_epsilon
        )

    def forward(self, x: Tensor, kernel_size: int, expand_ratio: float) -> Tensor:
        """Apply the block at a kernel size and expand ratio."""
        mid = self.mid_channels(self.in_channels, expand_ratio)
        x = self.depth_conv(self.inverted_bottleneck(x, mid), kernel_size)
        y: Tensor = self.point_linear(x, self.out_channels)
        return y

    @torch.no_grad()
    def sort_channels(self, kept_ratios: Sequence[float] = ()) -> None:
        """Order the middle channels by importance; the block computes the same at full width."""
        kept = [self.mid_channels(self.in_channels, ratio) for ratio in kept_ratios]
        project = self.point_linear.conv.conv
        order = importance_order(project.weight, kept)
        _permute(project.weight, 1, order)
        _permute_batch_norm(self.depth_conv.bn.bn, order)
        _permute(self.depth_conv.conv.conv.weight, 0, order)
        if self.depth_conv.se is not None:
            reduce, expand = self.depth_conv.se.fc.reduce, self.depth_conv.se.fc.expand
            assert reduce.bias is not None  # both are built with a bias
            assert expand.bias is not None
            _permute(expand.weight, 0, order)
            _permute(expand.bias, 0, order)
            _permute(reduce.weight, 1, order)
            hidden = importance_order(expand.weight, ())
            _permute(expand.weight, 1, hidden)
            _permute(reduce.weight, 0, hidden)
            _permute(reduce.bias, 0, hidden)
        _permute_batch_norm(self.inverted_bottleneck.bn.bn, order)
        _permute(self.inverted_bottleneck.conv.conv.weight, 0, order)


class ElasticResidualBlock(nn.Module):
    """An elastic inverted residual with its addition, where the shapes allow one."""

    def __init__(self, space: MobileNetSpace, stage: int, block: int) -> None:
        super().__init__()
        self.conv = ElasticInvertedResidual(space, stage, block)
        self.has_residual = space.block_has_residual(stage, block)

    def forward(self, x: Tensor, kernel_size: int, expand_ratio: float) -> Tensor:
        """Apply the block at a kernel size and expand ratio."""
        y: Tensor = self.conv(x, kernel_size, expand_ratio)
        return y + x if self.has_residual else y


class ElasticBottleneck(nn.Module):
    """ResNet50D bottleneck with elastic expand ratio and width."""

    def __init__(self, space: ResNetSpace, stage: int, block: int) -> None:
        super().__init__()
        eps = space.bn_epsilon
        widths = space.stage_width_choices
        previous = space.stem_widths if stage == 0 else widths[stage - 1]
        self.max_out_channels = max(widths[stage])
        self.mid_channels = space.mid_channels
        max_in = max(previous) if block == 0 else self.max_out_channels
        max_mid = self.mid_channels(self.max_out_channels, max(space.expand_ratio_choices))
        self.stride = space.block_stride(stage, block)
        self.conv1 = ElasticConvLayer(max_in, max_mid, activation="relu", bn_epsilon=eps)
        self.conv2 = ElasticConvLayer(
            max_mid, max_mid, 3, stride=self.stride, activation="relu", bn_epsilon=eps
        )
        self.conv3 = ElasticConvLayer(max_mid, self.max_out_channels, bn_epsilon=eps)
        self.downsample = (
            ElasticConvLayer(max_in, self.max_out_channels, bn_epsilon=eps) if block == 0 else None
        )

    def forward(self, x: Tensor, out_channels: int, expand_ratio: float) -> Tensor:
        """Apply the block at a width and expand ratio."""
        residual = x
        if self.downsample is not None:
            if self.stride > 1:
                residual = F.avg_pool2d(x, self.stride, self.stride, ceil_mode=True)
            residual = self.downsample(residual, out_channels)
        mid = self.mid_channels(out_channels, expand_ratio)
        y: Tensor = self.conv3(self.conv2(self.conv1(x, mid), mid), out_channels)
        return F.relu(y + residual, inplace=True)

    @torch.no_grad()
    def sort_channels(self, kept_ratios: Sequence[float] = ()) -> None:
        """Order the middle channels by importance; the block computes the same at full width."""
        kept = [self.mid_channels(self.max_out_channels, ratio) for ratio in kept_ratios]
        for layer, following in ((self.conv2, self.conv3), (self.conv1, self.conv2)):
            order = importance_order(following.conv.conv.weight, kept)
            _permute(following.conv.conv.weight, 1, order)
            _permute_batch_norm(layer.bn.bn, order)
            _permute(layer.conv.conv.weight, 0, order)


def importance_order(weight: Tensor, kept_widths: Sequence[int]) -> Tensor:
    """Return the order of input channels by falling L1 norm of the weights that read them.

    Channels never cross a width of `kept_widths`: the first C stay the first C, so that a subnet
    already trained at C channels keeps them.
    """
    importance = weight.abs().sum(dim=(0, 2, 3))
    bounds = sorted({0, *kept_widths, len(importance)})
    parts = [
        start + torch.argsort(importance[start:end], descending=True, stable=True)
        for start, end in pairwise(bounds)
    ]
    return torch.cat(parts)


def _permute(tensor: Tensor, dim: int, order: Tensor) -> None:
    tensor.copy_(tensor.index_select(dim, order))


def _permute_batch_norm(bn: nn.BatchNorm2d, order: Tensor) -> None:
    for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        assert tensor is not None  # batch norms here are affine and track statistics
        _permute(tensor, 0, order)
