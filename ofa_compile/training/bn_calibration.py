"""Re-estimate a subnet's batch-norm statistics.

The running statistics in a supernet are a mixture over all the subnets that were trained, so every
extracted subnet needs statistics of its own before it is evaluated or compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ofa_compile.errors import DataError
from ofa_compile.training.batch_norm import batch_norm_activation, replace_forward

__all__ = ["calibrate_bn", "calibrate_bn_in_parts", "calibrated_output"]


class _Moments:
    """Stands in for one batch norm's forward: uses the batch's statistics and adds them up."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        self.bn = bn
        self.count = 0
        self.first = torch.zeros(bn.num_features, dtype=torch.float64)
        self.second = torch.zeros(bn.num_features, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` of shape (n, c, h, w) with its own statistics, and keep them."""
        bn, channels = self.bn, x.shape[1]
        mean, var = torch.zeros(channels), torch.zeros(channels)
        gamma = torch.ones(channels) if bn.weight is None else bn.weight
        beta = torch.zeros(channels) if bn.bias is None else bn.bias
        y = batch_norm_activation(x, (mean, var), gamma, beta, momentum=1.0, epsilon=bn.eps)
        count = x.numel() // channels
        biased = var.double() * ((count - 1) / count)
        self.count += count
        self.first += count * mean.double()
        self.second += count * (biased + mean.double().square())
        return y

    def write(self) -> None:
        """Set the running statistics; the variance is the unbiased one, as torch keeps."""
        bn = self.bn
        assert bn.running_mean is not None  # `calibrate_bn` chose those that track statistics
        assert bn.running_var is not None
        mean = self.first / self.count
        var = (self.second / self.count - mean.square()).clamp_min(0.0)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var * (self.count / max(1, self.count - 1)))


@contextmanager
def _in_place_of(norms: list[nn.BatchNorm2d]) -> Iterator[list[_Moments]]:
    """Replace the forward of batch norms, for as long as the context lasts."""
    moments = [_Moments(bn) for bn in norms]
    for one in moments:
        replace_forward(one.bn, one.forward)
    try:
        yield moments
    finally:
        for bn in norms:
            del bn.forward


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
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with _in_place_of(norms) as moments:
            outputs = [module(part) for part in parts]
    finally:
        for child, mode in modes.items():
            child.training = mode
    for one in moments:
        one.write()
    return outputs
