"""Tensors and weights in dense channels-last memory, as our kernels take them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def channels_last_strides(n: int, c: int, h: int, w: int) -> tuple[int, int, int, int]:
    """Return the strides of a dense NHWC tensor of shape (n, c, h, w)."""
    del n
    return (h * w * c, 1, w * c, c)


def dense_channels_last(x: Tensor) -> Tensor:
    """Return `x` with dense NHWC strides.

    ``contiguous(memory_format=torch.channels_last)`` alone leaves other strides where a size is 1.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    strides = channels_last_strides(*x.shape)
    if x.stride() == strides:
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def empty_channels_last(shape: tuple[int, int, int, int]) -> Tensor:
    """Return an uninitialised dense NHWC float32 tensor of `shape` (n, c, h, w)."""
    return torch.empty_strided(shape, channels_last_strides(*shape), dtype=torch.float32)


def use_channels_last(module: ModuleT) -> ModuleT:
    """Store a module's convolution weights channels-last, in place; return the module."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module
