"""Images of our own making that stand in for the training images in BN calibration.

A data set that may not be shipped is replaced by images synthesised from noise: their pixels are
optimised until the batch-norm inputs of several subnets have the means and variances that real
images gave, while the largest network sees confident, balanced classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import DataError
from ofa_compile.space import Architecture
from ofa_compile.supernet import Supernet
from ofa_compile.training import depthwise
from ofa_compile.training.data import normalize, resize
from ofa_compile.training.evaluate import calibrated_subnet

__all__ = ["SynthesisConfig", "load_calibration_images", "save_calibration_images", "synthesize"]

_KEY = "images"
# Spectrum of the first noise: amplitude falls with frequency as in photographs.
_SPECTRUM_EXPONENT = 1.2


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """Settings of a synthesis.

    Attributes
    ----------
    count
        Images, optimised as one batch.
    size
        Height and width.
    steps
        Adam steps; each takes one of the subnets in turn.
    learning_rate
        In units of the pixels' standard deviation.
    class_weight
        Weight of the classification loss beside the statistics' loss.
    seed
        Seed of noise and classes.
    """

    count: int = 256
    size: int = 32
    steps: int = 300
    learning_rate: float = 0.05
    class_weight: float = 0.05
    seed: int = 0


class _ChannelMoments(torch.autograd.Function):
    """Mean and variance per channel; torch's own backward makes four passes over the tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # a view of channels-last memory
        var, mean = torch.var_mean(rows, dim=0, correction=0)
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2.0 * grads[1] / count
        offset = grads[0] / count - slope * mean
        return torch.addcmul(offset.view(1, -1, 1, 1), x, slope.view(1, -1, 1, 1))


class _StatisticsLoss:
    """Distance of each batch norm's input statistics from its running ones."""

    def __init__(self, subnet: nn.Module) -> None:
        self.terms: list[Tensor] = []
        for module in subnet.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(self._compare)

    def _compare(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        assert module.running_mean is not None
        assert module.running_var is not None
        mean, var = _ChannelMoments.apply(inputs[0])  # type: ignore[no-untyped-call]
        spread = module.running_var + module.eps
        mean_error = (mean - module.running_mean).square() / spread
        var_error = torch.log((var + module.eps) / spread).square()
        self.terms.append((mean_error + 0.25 * var_error).mean())

    def take(self) -> Tensor:
        """Return the mean over the batch norms of the last pass, and forget it."""
        total = torch.stack(self.terms).mean()
        self.terms.clear()
        return total


def _noise(count: int, size: int, seed: int) -> Tensor:
    """Return smooth colour noise with a photograph's spectrum, standardised."""
    generator = torch.Generator().manual_seed(seed)
    white = torch.randn(count, 3, size, size, generator=generator)
    # Colours of photographs are correlated: mostly brightness.
    white = white + 2.0 * white.mean(dim=1, keepdim=True) * 3.0**0.5
    rows = torch.fft.fftfreq(size)[:, None]
    columns = torch.fft.rfftfreq(size)[None, :]
    frequency = torch.sqrt(rows**2 + columns**2).clamp_min(0.5 / size)
    spectrum = torch.fft.rfft2(white) * frequency**-_SPECTRUM_EXPONENT
    smooth = torch.fft.irfft2(spectrum, s=(size, size))
    standard: Tensor = (smooth - smooth.mean()) / smooth.std()
    return standard


def synthesize(
    supernet: Supernet,
    architectures: Sequence[Architecture],
    real: Tensor,
    *,
    config: SynthesisConfig | None = None,
    initial: NDArray[np.uint8] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> NDArray[np.uint8]:
    """Make calibration images.

    Parameters
    ----------
    supernet
        Trained supernet; its metadata says mean and standard deviation of the pixels.
    architectures
        Subnets whose statistics are matched; the first also sees the classes.
    real
        Normalised real images to take the statistics from, of shape (n, 3, height, width).
    config
        Settings; None for the defaults.
    initial
        Images to start from, of shape (count, size, size, 3); None starts from noise.
    progress
        Called after every step with the step, the total and the loss.

    Returns
    -------
    Images of shape (count, size, size, 3), uint8.
    """
    settings = config or SynthesisConfig()
    subnets = [calibrated_subnet(supernet, a, real).requires_grad_(False) for a in architectures]
    for subnet in subnets:
        depthwise.accelerate(subnet)
    losses = [_StatisticsLoss(subnet) for subnet in subnets]
    mean, std = (torch.tensor(supernet.metadata[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    low, high = -mean / std, (1.0 - mean) / std
    if initial is None:
        pixels = _noise(settings.count, settings.size, settings.seed).clamp(low, high)
    else:
        pixels = normalize(initial, supernet.metadata["mean"], supernet.metadata["std"])
    pixels = pixels.contiguous(memory_format=torch.channels_last).requires_grad_(True)
    classes = torch.arange(len(pixels)) % supernet.num_classes
    optimizer = torch.optim.Adam([pixels], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for step in range(settings.steps):
        turn = step % len(subnets)
        logits = subnets[turn](resize(pixels, architectures[turn].resolution))
        loss = losses[turn].take()
        if turn == 0:
            loss = loss + settings.class_weight * functional.cross_entropy(logits, classes)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            pixels.clamp_(low, high)
        if progress is not None:
            progress(step + 1, settings.steps, loss.item())
    scaled = ((pixels.detach() * std + mean) * 255.0).round().clamp(0, 255)
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def save_calibration_images(path: Path, images: NDArray[np.uint8]) -> None:
    """Write images of shape (n, height, width, 3), uint8, as a compressed .npz, atomically."""
    with replacing(path) as staging, staging.open("wb") as stream:
        np.savez_compressed(stream, images=images)


def load_calibration_images(
    path: str | os.PathLike[str],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Read calibration images, normalised, of shape (n, 3, height, width).

    Raises
    ------
    DataError
        If the file is missing or holds no images.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            images = stored[_KEY]
    except (OSError, ValueError, KeyError) as err:
        message = f"cannot read calibration images from {path}: {err}"
        raise DataError(message) from err
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        message = f"{path} holds {images.dtype} of shape {images.shape}, not uint8 (n, h, w, 3)"
        raise DataError(message)
    return normalize(images, mean, std)
