"""Layers whose active part is a slice of their weights: the first C channels.

Each wraps the PyTorch module that owns the weights, which gives the authors' parameter names
(``conv.conv.weight``, ``bn.bn.weight``).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ofa_compile.supernet.functional import centre_crop, depthwise_conv2d, transform_kernel


class ElasticConv2d(nn.Module):
    """Convolution with elastic input and output channels, same-padded."""

    def __init__(
        self, max_in_channels: int, max_out_channels: int, kernel_size: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            max_in_channels, max_out_channels, kernel_size, stride, kernel_size // 2, bias=False
        )

    def forward(self, x: Tensor, out_channels: int) -> Tensor:
        """Compute the first `out_channels` outputs of `x`, of shape (N, C, H, W)."""
        conv = self.conv
        weight = conv.weight
        if out_channels != conv.out_channels or x.shape[1] != conv.in_channels:
            weight = weight[:out_channels, : x.shape[1]]
        return F.conv2d(x, weight, None, conv.stride, conv.padding)


class ElasticDepthwiseConv2d(nn.Module):
    """Depthwise convolution with elastic channels and kernel size.

    A smaller kernel is the centre of the next larger one, times a learned matrix (``7to5_matrix``,
    ``5to3_matrix``) that all channels share.
    """

    def __init__(self, max_channels: int, kernel_sizes: tuple[int, ...], stride: int) -> None:
        super().__init__()
        self.kernel_sizes = tuple(sorted(kernel_sizes, reverse=True))
        self.stride = stride
        largest = self.kernel_sizes[0]
        self.conv = nn.Conv2d(
            max_channels, max_channels, largest, stride, groups=max_channels, bias=False
        )
        for large, small in pairwise(self.kernel_sizes):
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(torch.eye(small**2)))

    def active_weight(self, channels: int, kernel_size: int) -> Tensor:
        """Return the kernels of a subnet, of shape (channels, 1, kernel_size, kernel_size)."""
        weight = self.conv.weight
        if channels != weight.shape[0]:
            weight = weight[:channels]
        for large, small in pairwise(self.kernel_sizes):
            if large <= kernel_size:
                break
            weight = transform_kernel(weight, getattr(self, f"{large}to{small}_matrix"), small)
        return centre_crop(weight, kernel_size)

    def forward(self, x: Tensor, kernel_size: int) -> Tensor:
        """Convolve `x` of shape (N, C, H, W) with the first C kernels."""
        return depthwise_conv2d(x, self.active_weight(x.shape[1], kernel_size), self.stride)


class ElasticBatchNorm2d(nn.Module):
    """Batch norm over the first C channels; in training it updates their running statistics."""

    def __init__(self, max_channels: int, eps: float) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(max_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` of shape (N, C, H, W)."""
        bn = self.bn
        channels = x.shape[1]
        if channels == bn.num_features:
            y: Tensor = bn(x)
            return y
        assert bn.running_mean is not None  # both exist: track_running_stats is never off
        assert bn.running_var is not None
        return F.batch_norm(
            x,
            bn.running_mean[:channels],
            bn.running_var[:channels],
            bn.weight[:channels],
            bn.bias[:channels],
            bn.training,
            bn.momentum or 0.0,
            bn.eps,
        )


class _SqueezeLayers(nn.Module):
    """Owner of a squeeze-excite's weights."""

    def __init__(self, max_channels: int, max_hidden_channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(max_channels, max_hidden_channels, 1)
        self.expand = nn.Conv2d(max_hidden_channels, max_channels, 1)


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-excite over the first C channels; in training the gate is computed on vectors."""

    def __init__(self, max_channels: int, max_hidden_channels: int) -> None:
        super().__init__()
        self.fc = _SqueezeLayers(max_channels, max_hidden_channels)

    def forward(self, x: Tensor, hidden_channels: int) -> Tensor:
        """Scale `x` of shape (N, C, H, W)."""
        channels = x.shape[1]
        reduce, expand = self.fc.reduce, self.fc.expand
        assert reduce.bias is not None  # both are built with a bias
        assert expand.bias is not None
        reduce_weight = reduce.weight[:hidden_channels, :channels]
        expand_weight = expand.weight[:channels, :hidden_channels]
        reduce_bias, expand_bias = reduce.bias[:hidden_channels], expand.bias[:channels]
        if not self.training:
            # The very operators of a static subnet: a deep net with wild weights amplifies the
            # last bit of the gate a thousandfold.
            y = F.conv2d(F.adaptive_avg_pool2d(x, 1), reduce_weight, reduce_bias)
            return x * F.hardsigmoid(F.conv2d(F.relu(y), expand_weight, expand_bias))
        y = F.relu(F.linear(x.mean((2, 3)), reduce_weight.flatten(1), reduce_bias), inplace=True)
        y = F.linear(y, expand_weight.flatten(1), expand_bias)
        return x * F.hardsigmoid(y)[:, :, None, None]


class ElasticLinear(nn.Module):
    """Linear layer with elastic input features."""

    def __init__(self, max_in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(max_in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map features of shape (N, F) to (N, out_features)."""
        return F.linear(x, self.linear.weight[:, : x.shape[1]], self.linear.bias)
