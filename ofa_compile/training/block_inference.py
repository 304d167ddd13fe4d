"""One inverted residual block over calibration and evaluation images at once.

The statistics of a block's batch norms depend on the blocks before it and on nothing behind it.
So a block is calibrated and evaluated once for all subnets that share the way up to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ofa_compile.space import MobileNetSpace
from ofa_compile.supernet.blocks import ElasticResidualBlock
from ofa_compile.training import block_kernels as kernels
from ofa_compile.training.batch_norm import channel_moments

__all__ = [
    "CHUNK_BYTES",
    "Activations",
    "BlockWeights",
    "block_weights",
    "norm_weights",
    "pointwise_layer",
    "run_block",
]

CHUNK_BYTES = 512 << 10  # of a block's widest tensor: stays in a core's second-level cache


@dataclass
class Activations:
    """What reaches one place in a network, each of shape (n, height, width, channels).

    Attributes
    ----------
    calibration
        Calibration images, normalised on their way with their own statistics.
    evaluation
        Images to evaluate on, normalised with those statistics.
    """

    calibration: Tensor
    evaluation: Tensor
    _covariance: tuple[Tensor, Tensor] | None = field(default=None, repr=False)

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Return mean and biased covariance of the calibration pixels' channels, in float64."""
        if self._covariance is None:
            rows = self.calibration.flatten(0, 2)
            mean, _ = channel_moments(rows)
            parts = torch.split(rows - mean.float(), 4096)
            total = torch.stack([(part.t() @ part).double() for part in parts]).sum(dim=0)
            # The float32 mean is not quite the mean.
            rest = mean - mean.float()
            self._covariance = mean, total / len(rows) - torch.outer(rest, rest)
        return self._covariance


@dataclass(frozen=True, kw_only=True)
class _Norm:
    """Weights of a batch norm that is being calibrated."""

    gamma: Tensor
    beta: Tensor
    epsilon: float

    def fold(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and offset, in float64."""
        scale = self.gamma.double() / torch.sqrt(variance + self.epsilon)
        return scale, self.beta.double() - mean * scale

    def fold_both(
        self, mean: Tensor, variance: Tensor, count: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Fold as for a training batch (biased variance), and as for evaluation (unbiased)."""
        unbiased = variance * (count / max(1, count - 1))
        return self.fold(mean, variance), self.fold(mean, unbiased)


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """The active weights of an inverted residual block."""

    expand: Tensor
    expand_norm: _Norm
    depthwise: Tensor
    depthwise_norm: _Norm
    project: Tensor
    project_norm: _Norm
    squeeze: tuple[tuple[Tensor, Tensor, int], tuple[Tensor, Tensor, int]] | None
    kernel_size: int
    stride: int
    activation: str
    has_residual: bool

    @property
    def channels(self) -> int:
        """Channels in the middle."""
        return len(self.expand)


def norm_weights(bn: nn.BatchNorm2d, channels: int) -> _Norm:
    """Return the affine part of a batch norm over the first `channels`."""
    gamma, beta = bn.weight.detach()[:channels], bn.bias.detach()[:channels]
    return _Norm(gamma=gamma, beta=beta, epsilon=bn.eps)


@torch.no_grad()
def block_weights(
    space: MobileNetSpace, block: ElasticResidualBlock, stage: int, kernel_size: int, ratio: float
) -> BlockWeights:
    """Slice the weights of one choice out of an elastic block."""
    conv = block.conv
    channels = conv.mid_channels(conv.in_channels, ratio)
    depthwise, project = conv.depth_conv, conv.point_linear
    squeeze = None
    if depthwise.se is not None:
        reduce, expand = depthwise.se.fc.reduce, depthwise.se.fc.expand
        assert reduce.bias is not None  # both are built with a bias
        assert expand.bias is not None
        hidden = depthwise.squeeze_channels(channels)
        first, second = reduce.weight[:hidden, :channels], expand.weight[:channels, :hidden]
        squeeze = (
            _packed(first.flatten(1), reduce.bias[:hidden]),
            _packed(second.flatten(1), expand.bias[:channels]),
        )
    return BlockWeights(
        expand=conv.inverted_bottleneck.conv.conv.weight.detach()[:channels].flatten(1),
        expand_norm=norm_weights(conv.inverted_bottleneck.bn.bn, channels),
        depthwise=depthwise.conv.active_weight(channels, kernel_size).detach(),
        depthwise_norm=norm_weights(depthwise.bn.bn, channels),
        project=project.conv.conv.weight.detach()[:, :channels].flatten(1),
        project_norm=norm_weights(project.bn.bn, conv.out_channels),
        squeeze=squeeze,
        kernel_size=kernel_size,
        stride=depthwise.conv.stride,
        activation=space.stage_activations[stage],
        has_residual=block.has_residual,
    )


def _packed(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, int]:
    return kernels.pack_matrix(weight), kernels.pack_vector(bias), len(weight)


def _scaled(weight: Tensor, folded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Fold scale and offset into pointwise weights, packed."""
    scale, offset = folded
    return kernels.pack_matrix(weight * scale[:, None]), kernels.pack_vector(offset)


def _scaled_depthwise(weight: Tensor, folded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    scale, offset = folded
    return kernels.pack_depthwise(weight * scale[:, None, None, None]), kernels.pack_vector(offset)


def pointwise_layer(
    weight: Tensor, norm: _Norm, x: Activations
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Fold a pointwise layer, for the calibration images and for evaluation.

    The layer is linear: mean and variance of its outputs follow from mean and covariance of its
    inputs, so its (far wider) output need not be computed to know them.

    Returns
    -------
    Packed weights and bias, twice.
    """
    mean, covariance = x.covariance()
    rows = weight.double()
    variance = ((rows @ covariance) * rows).sum(dim=1).clamp_min(0.0)
    count = x.calibration.numel() // x.calibration.shape[-1]
    biased, unbiased = norm.fold_both(rows @ mean, variance, count)
    return _scaled(weight, biased), _scaled(weight, unbiased)


def _squeeze_excite(weights: BlockWeights, x: Tensor) -> None:
    """Apply squeeze-excite in place, if the block has it."""
    if weights.squeeze is not None:
        (reduce, reduce_bias, hidden), (expand, expand_bias, channels) = weights.squeeze
        y = kernels.pointwise(kernels.pool(x), reduce, reduce_bias, hidden, "relu")
        kernels.gate(x, kernels.pointwise(y, expand, expand_bias, channels))


@torch.no_grad()
def run_block(weights: BlockWeights, x: Activations) -> Activations:
    """Calibrate a block's batch norms and apply it to both sets of images."""
    channels, outputs = weights.channels, len(weights.project)
    act = weights.activation
    shape = {
        "channels": channels, "kernel_size": weights.kernel_size, "stride": weights.stride,
    }  # fmt: skip
    expand_own, expand = pointwise_layer(weights.expand, weights.expand_norm, x)
    plain = torch.ones(channels), torch.zeros(channels)
    raw = _scaled_depthwise(weights.depthwise, plain)
    u = kernels.expand_depthwise(x.calibration, expand_own, raw, activations=(act, "none"), **shape)
    own, folded = _fold_measured(weights.depthwise_norm, u)
    depthwise = _scaled_depthwise(weights.depthwise, folded)
    kernels.normalize_(u, *own, act)
    _squeeze_excite(weights, u)
    none = kernels.pack_vector(torch.zeros(outputs))
    calibration = kernels.pointwise(u, kernels.pack_matrix(weights.project), none, outputs)
    own, folded = _fold_measured(weights.project_norm, calibration)
    project, bias = _scaled(weights.project, folded)
    kernels.normalize_(calibration, *own)
    if weights.has_residual:
        calibration += x.calibration
    evaluation = torch.empty(len(x.evaluation), *calibration.shape[1:])
    size = max(1, CHUNK_BYTES // (4 * u[0].numel()))
    for part, out in zip(
        torch.split(x.evaluation, size), torch.split(evaluation, size), strict=True
    ):
        u = kernels.expand_depthwise(part, expand, depthwise, activations=(act, act), **shape)
        _squeeze_excite(weights, u)
        residual = part if weights.has_residual else None
        kernels.pointwise(u, project, bias, outputs, residual=residual, out=out)
    return Activations(calibration, evaluation)


def _fold_measured(norm: _Norm, y: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    rows = y.flatten(0, -2)
    return norm.fold_both(*channel_moments(rows), len(rows))
