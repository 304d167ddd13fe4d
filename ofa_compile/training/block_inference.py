"""Inverted residual blocks over many images: calibrated, and calibrated and evaluated at once.

The statistics of a block's batch norms depend on the blocks before it and on nothing behind it.
So a block is calibrated and evaluated once for all subnets that share the way up to it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ofa_compile.supernet.subnet import InvertedResidual, ResidualBlock, SqueezeExcite
from ofa_compile.training import block_kernels as kernels
from ofa_compile.training.batch_norm import activation_name

__all__ = [
    "CHUNK_BYTES",
    "Activations",
    "BlockWeights",
    "Moments",
    "Norm",
    "block_norms",
    "block_weights",
    "calibrate_block",
    "channel_covariance",
    "norm_weights",
    "normalize_own_",
    "pointwise_moments",
    "pointwise_weights",
    "run_block",
    "scaled",
]

_PRODUCTS, _PRODUCT_ROWS = 8, 2048
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
        """Return what `channel_covariance` says of the calibration images, computed once."""
        if self._covariance is None:
            self._covariance = channel_covariance(self.calibration)
        return self._covariance


def channel_covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased covariance of the channels over all pixels, in float64.

    Parameters
    ----------
    x
        Images of shape (n, height, width, channels).
    """
    rows = x.flatten(0, 2)
    mean, _ = kernels.channel_moments(x)
    total = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    # Products of few rows sum up in float without loss, and several at once occupy all cores.
    for part in torch.split(rows, _PRODUCTS * _PRODUCT_ROWS):
        count = _PRODUCTS if len(part) == _PRODUCTS * _PRODUCT_ROWS else 1
        centred = (part - mean.float()).view(count, -1, len(mean))
        total += torch.bmm(centred.transpose(1, 2), centred).double().sum(dim=0)
    # The float32 mean is not quite the mean.
    rest = mean - mean.float()
    return mean, total / len(rows) - torch.outer(rest, rest)


@dataclass(frozen=True)
class Moments:
    """What a batch norm sees of its input: per channel, over all pixels, in float64.

    Attributes
    ----------
    mean, variance
        Of shape (channels,); the variance is the biased one.
    count
        Number of pixels.
    """

    mean: Tensor
    variance: Tensor
    count: int


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Weights of a batch norm that is being calibrated."""

    gamma: Tensor
    beta: Tensor
    epsilon: float

    def fold(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and offset, in float64."""
        scale = self.gamma.double() / torch.sqrt(variance + self.epsilon)
        return scale, self.beta.double() - mean * scale

    def fold_own(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Fold as for a training batch, which is normalised with its own biased variance."""
        return self.fold(moments.mean, moments.variance)

    def fold_running(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Fold as for evaluation: running variances are unbiased."""
        unbiased = moments.variance * (moments.count / max(1, moments.count - 1))
        return self.fold(moments.mean, unbiased)


@dataclass(frozen=True, kw_only=True)
class BlockWeights:
    """The active weights of an inverted residual block."""

    expand: Tensor
    expand_norm: Norm
    depthwise: Tensor
    depthwise_norm: Norm
    project: Tensor
    project_norm: Norm
    squeeze: tuple[tuple[Tensor, Tensor, int], tuple[Tensor, Tensor, int]] | None
    kernel_size: int
    stride: int
    activation: str
    has_residual: bool

    @property
    def channels(self) -> int:
        """Channels in the middle."""
        return len(self.expand)

    @property
    def window(self) -> dict[str, int]:
        """What `kernels.expand_depthwise` asks of the depthwise convolution."""
        sizes = {"kernel_size": self.kernel_size, "stride": self.stride}
        return {"channels": self.channels, **sizes}


def norm_weights(bn: nn.Module) -> Norm:
    """Return the affine part of a batch norm."""
    assert isinstance(bn, nn.BatchNorm2d)
    return Norm(gamma=bn.weight.detach(), beta=bn.bias.detach(), epsilon=bn.eps)


def block_norms(block: ResidualBlock) -> tuple[nn.BatchNorm2d, ...]:
    """Return a block's batch norms in order; none for a block that the kernels do not serve."""
    conv = block.conv
    if not isinstance(conv, InvertedResidual) or conv.inverted_bottleneck is None:
        return ()
    layers = (conv.inverted_bottleneck, conv.depth_conv, conv.point_linear)
    return tuple(m for layer in layers for m in layer if isinstance(m, nn.BatchNorm2d))


@torch.no_grad()
def block_weights(block: ResidualBlock) -> BlockWeights:
    """Return the weights of a block that has `block_norms`."""
    conv = block.conv
    assert isinstance(conv, InvertedResidual)
    expand, depthwise, project = conv.inverted_bottleneck, conv.depth_conv, conv.point_linear
    assert expand is not None
    window = depthwise.get_submodule("conv")
    assert isinstance(window, nn.Conv2d)
    se = depthwise._modules.get("se")
    activation = activation_name(expand)
    assert activation is not None
    return BlockWeights(
        expand=pointwise_weights(expand),
        expand_norm=norm_weights(expand.get_submodule("bn")),
        depthwise=window.weight.detach(),
        depthwise_norm=norm_weights(depthwise.get_submodule("bn")),
        project=pointwise_weights(project),
        project_norm=norm_weights(project.get_submodule("bn")),
        squeeze=_squeeze_weights(se) if isinstance(se, SqueezeExcite) else None,
        kernel_size=window.kernel_size[0],
        stride=window.stride[0],
        activation=activation,
        has_residual=block.has_residual,
    )


def pointwise_weights(layer: nn.Module) -> Tensor:
    """Return the weights of a pointwise layer, of shape (outputs, inputs)."""
    conv = layer.get_submodule("conv")
    assert isinstance(conv, nn.Conv2d)
    return conv.weight.detach().flatten(1)


def _squeeze_weights(
    se: SqueezeExcite,
) -> tuple[tuple[Tensor, Tensor, int], tuple[Tensor, Tensor, int]]:
    reduce, expand = (se.fc.get_submodule(name) for name in ("reduce", "expand"))
    assert isinstance(reduce, nn.Conv2d)
    assert isinstance(expand, nn.Conv2d)
    assert reduce.bias is not None  # both are built with a bias
    assert expand.bias is not None
    return (
        _packed(reduce.weight.flatten(1), reduce.bias),
        _packed(expand.weight.flatten(1), expand.bias),
    )


def _packed(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, int]:
    return kernels.pack_matrix(weight), kernels.pack_vector(bias), len(weight)


def scaled(weight: Tensor, folded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Fold scale and offset into pointwise weights, packed."""
    scale, offset = folded
    return kernels.pack_matrix(weight * scale[:, None]), kernels.pack_vector(offset)


def _scaled_depthwise(weight: Tensor, folded: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    scale, offset = folded
    return kernels.pack_depthwise(weight * scale[:, None, None, None]), kernels.pack_vector(offset)


def pointwise_moments(weight: Tensor, covariance: tuple[Tensor, Tensor], count: int) -> Moments:
    """Return the moments of a pointwise layer's output, from those of its input.

    The layer is linear, so its (far wider) output need not be computed to know them.
    """
    mean, spread = covariance
    rows = weight.double()
    variance = ((rows @ spread) * rows).sum(dim=1).clamp_min(0.0)
    return Moments(rows @ mean, variance, count)


def _squeeze_excite(weights: BlockWeights, x: Tensor) -> None:
    """Apply squeeze-excite in place, if the block has it."""
    if weights.squeeze is not None:
        (reduce, reduce_bias, hidden), (expand, expand_bias, channels) = weights.squeeze
        y = kernels.pointwise(kernels.pool(x), reduce, reduce_bias, hidden, "relu")
        kernels.gate(x, kernels.pointwise(y, expand, expand_bias, channels))


@torch.no_grad()
def calibrate_block(
    weights: BlockWeights, x: Tensor, covariance: tuple[Tensor, Tensor]
) -> tuple[Tensor, tuple[Moments, Moments, Moments]]:
    """Apply a block to images that are normalised with their own statistics.

    Parameters
    ----------
    weights
        The block.
    x
        Its input, of shape (n, height, width, channels).
    covariance
        What `channel_covariance` says of `x`.

    Returns
    -------
    The output, and what its three batch norms saw.
    """
    channels, outputs = weights.channels, len(weights.project)
    expanded = pointwise_moments(weights.expand, covariance, x[..., 0].numel())
    u = kernels.expand_depthwise(
        x,
        scaled(weights.expand, weights.expand_norm.fold_own(expanded)),
        _scaled_depthwise(weights.depthwise, (torch.ones(channels), torch.zeros(channels))),
        activations=(weights.activation, "none"),
        **weights.window,
    )
    filtered = normalize_own_(weights.depthwise_norm, u, weights.activation)
    _squeeze_excite(weights, u)
    none = kernels.pack_vector(torch.zeros(outputs))
    y = kernels.pointwise(u, kernels.pack_matrix(weights.project), none, outputs)
    projected = normalize_own_(weights.project_norm, y)
    if weights.has_residual:
        y += x
    return y, (expanded, filtered, projected)


def normalize_own_(norm: Norm, x: Tensor, activation: str = "none") -> Moments:
    """Normalise `x` of shape (n, height, width, channels) in place with its own statistics."""
    moments = Moments(*kernels.channel_moments(x), x[..., 0].numel())
    kernels.normalize_(x, *norm.fold_own(moments), activation)
    return moments


@torch.no_grad()
def run_block(weights: BlockWeights, x: Activations) -> Activations:
    """Calibrate a block's batch norms and apply it to both sets of images."""
    calibration, moments = calibrate_block(weights, x.calibration, x.covariance())
    evaluation = torch.empty(len(x.evaluation), *calibration.shape[1:])
    _apply_block(weights, moments, x.evaluation, evaluation)
    return Activations(calibration, evaluation)


def _apply_block(
    weights: BlockWeights, moments: tuple[Moments, Moments, Moments], x: Tensor, y: Tensor
) -> None:
    """Write what a block, calibrated, makes of `x` into `y`."""
    expanded, filtered, projected = moments
    outputs, act = len(weights.project), weights.activation
    expand = scaled(weights.expand, weights.expand_norm.fold_running(expanded))
    depthwise = _scaled_depthwise(weights.depthwise, weights.depthwise_norm.fold_running(filtered))
    project, bias = scaled(weights.project, weights.project_norm.fold_running(projected))
    pixels = y.shape[1] * y.shape[2]
    size = max(1, CHUNK_BYTES // (4 * pixels * weights.channels))
    for part, out in zip(torch.split(x, size), torch.split(y, size), strict=True):
        u = kernels.expand_depthwise(
            part, expand, depthwise, activations=(act, act), **weights.window
        )
        _squeeze_excite(weights, u)
        residual = part if weights.has_residual else None
        kernels.pointwise(u, project, bias, outputs, residual=residual, out=out)
