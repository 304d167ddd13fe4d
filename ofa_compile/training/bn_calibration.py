"""Re-estimate a subnet's batch-norm statistics.

The running statistics in a supernet are a mixture over all the subnets that were trained, so every
extracted subnet needs statistics of its own before it is evaluated or compiled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ofa_compile.errors import DataError

__all__ = ["calibrate_bn"]


class _Moments:
    """Per-channel sums of one batch norm's input, over all batches."""

    def __init__(self, bn: nn.BatchNorm2d) -> None:
        self.count = 0
        self.first = torch.zeros(bn.num_features, dtype=torch.float64)
        self.second = torch.zeros(bn.num_features, dtype=torch.float64)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Add a batch (a forward pre-hook)."""
        del module
        x: Tensor = inputs[0].detach()
        count = x.numel() // x.shape[1]
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        mean, var = mean.double().cpu(), var.double().cpu()
        self.count += count
        self.first += count * mean
        self.second += count * (var + mean * mean)

    def write(self, bn: nn.BatchNorm2d) -> None:
        """Set the running statistics of `bn`; the variance is the unbiased one, as torch keeps."""
        assert bn.running_mean is not None  # `calibrate_bn` chose those that track statistics
        assert bn.running_var is not None
        mean = self.first / self.count
        var = (self.second / self.count - mean * mean).clamp_min(0.0)
        bn.running_mean.copy_(mean)
        bn.running_var.copy_(var * (self.count / max(1, self.count - 1)))


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
    norms = [m for m in subnet.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in subnet.modules()}
    collected = [(bn, _Moments(bn)) for bn in norms]
    hooks = [bn.register_forward_pre_hook(moments) for bn, moments in collected]
    subnet.eval()
    for bn in norms:
        bn.train()
    num_batches = max(1, round(len(images) / batch_size))
    try:
        for part in torch.tensor_split(images, num_batches):
            subnet(part.contiguous(memory_format=torch.channels_last))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for bn, moments in collected:
        moments.write(bn)
