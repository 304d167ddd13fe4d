"""Re-estimate a subnet's batch-norm statistics.

The running statistics in a supernet are a mixture over all the subnets that were trained, so every
extracted subnet needs statistics of its own before it is evaluated or compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.errors import DataError
from ofa_compile.supernet.subnet import ResidualBlock
from ofa_compile.training import block_kernels
from ofa_compile.training.batch_norm import replace_forward
from ofa_compile.training.block_inference import (
    Moments,
    block_norms,
    block_weights,
    calibrate_block,
    channel_covariance,
    norm_weights,
    normalize_own_,
)
from ofa_compile.training.channels_last import dense_channels_last

__all__ = ["calibrate_bn", "calibrate_bn_in_parts", "calibrated_output"]


class _Statistics:
    """Adds up what one batch norm sees; can stand in for its forward."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        self.bn = bn
        self.count = 0
        self.first = torch.zeros(bn.num_features, dtype=torch.float64)
        self.second = torch.zeros(bn.num_features, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` of shape (n, c, h, w) with its own statistics, and keep those.

        Overwrites `x`, which nobody else reads: in our networks it comes out of a convolution.
        """
        bn, channels = self.bn, x.shape[1]
        if bn.affine and _is_served(bn.weight):
            pixels = dense_channels_last(x).permute(0, 2, 3, 1)
            self.add(normalize_own_(norm_weights(bn), pixels))
            return pixels.permute(0, 3, 1, 2)
        mean, var = torch.zeros(channels), torch.zeros(channels)
        y = functional.batch_norm(x, mean, var, bn.weight, bn.bias, True, 1.0, bn.eps)
        count = x.numel() // channels
        biased = var.double() * ((count - 1) / count)
        self.add(Moments(mean.double(), biased, count))
        return y

    def add(self, moments: Moments) -> None:
        """Join the moments of one batch with those before."""
        self.count += moments.count
        self.first += moments.count * moments.mean
        self.second += moments.count * (moments.variance + moments.mean.square())

    def write(self) -> None:
        """Set the running statistics; the variance is the unbiased one, as torch keeps."""
        bn = self.bn
        assert bn.running_mean is not None  # `calibrate_bn` chose those that track statistics
        assert bn.running_var is not None
        mean = self.first / self.count
        var = (self.second / self.count - mean.square()).clamp_min(0.0)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var * (self.count / max(1, self.count - 1)))


def _is_served(weight: Tensor) -> bool:
    """Whether a layer with these weights can run through our kernels."""
    is_plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_plain and block_kernels.is_available()


def _block_forward(
    block: ResidualBlock, statistics: Sequence[_Statistics]
) -> Callable[[Tensor], Tensor]:
    """Return a block's forward through our kernels, which gathers its three norms' statistics."""
    weights = block_weights(block)

    def forward(x: Tensor) -> Tensor:
        pixels = dense_channels_last(x).permute(0, 2, 3, 1)
        y, moments = calibrate_block(weights, pixels, channel_covariance(pixels))
        for one, seen in zip(statistics, moments, strict=True):
            one.add(seen)
        return y.permute(0, 3, 1, 2)

    return forward


@contextmanager
def _gathering(module: nn.Module) -> Iterator[list[_Statistics]]:
    """Make a module's batch norms gather statistics, for as long as the context lasts.

    Inverted residual blocks run through kernels of our own where they can be had: a third of the
    time of torch's operators.
    """
    found = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    gathered = {bn: _Statistics(bn) for bn in found}
    replaced: dict[nn.Module, Callable[[Tensor], Tensor]] = {
        bn: one.forward for bn, one in gathered.items()
    }
    blocks = [m for m in module.modules() if isinstance(m, ResidualBlock) and block_norms(m)]
    for block in blocks:
        norms = block_norms(block)
        if _is_served(norms[0].weight):
            replaced[block] = _block_forward(block, [gathered[bn] for bn in norms])
    for child, forward in replaced.items():
        replace_forward(child, forward)
    try:
        yield list(gathered.values())
    finally:
        for child in replaced:
            del child.forward


@torch.no_grad()
def calibrate_bn(subnet: nn.Module, images: Tensor, *, batch_size: int = 500) -> None:
    """Set the running statistics of every batch norm to those of `images`, in place.

    Each batch is normalised with its own statistics on its way through the subnet, and the
    statistics of all batches are joined exactly: mean and variance over all images.

    Parameters
    ----------
    subnet
        A static subnet; its mode (training or evaluation) is as before on return.
    images
        Normalised images of shape (n, 3, height, width), float32, at the subnet's resolution.
    batch_size
        Images per pass; large, since a batch stands for the whole set on its way through.

    Raises
    ------
    DataError
        If there are no images.
    """
    if len(images) == 0:
        message = "BN calibration needs at least one image"
        raise DataError(message)
    num_batches = max(1, round(len(images) / batch_size))
    calibrate_bn_in_parts(subnet, torch.tensor_split(images, num_batches))


@torch.no_grad()
def calibrate_bn_in_parts(subnet: nn.Module, parts: Iterable[Tensor]) -> None:
    """Do as `calibrate_bn` with batches that are made when their turn comes."""
    _outputs(subnet, (part.contiguous(memory_format=torch.channels_last) for part in parts))


@torch.no_grad()
def calibrated_output(module: nn.Module, x: Tensor) -> Tensor:
    """Calibrate a part of a network on its input, and return what it computes on the way.

    Parameters
    ----------
    module
        First, or next, part of a network.
    x
        The input of that part, for all calibration images at once.

    Returns
    -------
    The output, normalised with the batch's own statistics: the next part's input.
    """
    return _outputs(module, [x])[0]


def _outputs(module: nn.Module, parts: Iterable[Tensor]) -> list[Tensor]:
    """Run `parts` through a module while its batch norms gather their statistics; set those."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with _gathering(module) as statistics:
            outputs = [module(part) for part in parts]
    finally:
        for child, mode in modes.items():
            child.training = mode
    for one in statistics:
        one.write()
    return outputs
