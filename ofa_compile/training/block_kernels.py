"""Inference operators over many images for the accuracy data set, on the CPU.

The kernels are in ``runtime/torch_block.c``. Activations are dense float32 tensors of shape
(images, height, width, channels); weights come in packed, with batch norm folded into them.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from ofa_compile.training.batch_norm import ACTIVATIONS
from ofa_compile.training.native import check_status, load_library

__all__ = [
    "channel_moments",
    "expand_depthwise",
    "gate",
    "is_available",
    "normalize_",
    "pack_depthwise",
    "pack_matrix",
    "pack_vector",
    "pointwise",
    "pool",
]


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernels with their signatures declared."""
    library = load_library("torch_block")
    if library is not None:
        pointers: list[Any] = [ctypes.c_void_p]
        ints: list[Any] = [ctypes.c_int]
        library.ofa_block_pointwise.argtypes = [ctypes.c_long, *ints * 4, *pointers * 5]
        library.ofa_block_pointwise.restype = None
        library.ofa_block_expand_depthwise.argtypes = pointers * 7
        library.ofa_block_pool.argtypes = ints * 4 + pointers * 2
        library.ofa_block_pool.restype = None
        library.ofa_block_gate.argtypes = ints * 4 + pointers * 2
        library.ofa_block_gate.restype = None
        library.ofa_block_normalize.argtypes = [ctypes.c_long, *ints * 3, *pointers * 3]
        library.ofa_block_normalize.restype = None
        library.ofa_moments.argtypes = [ctypes.c_long, *ints * 2, *pointers * 3]
    return library


def is_available() -> bool:
    """Tell whether the compiled kernels can be used on this machine."""
    return _library() is not None


def _kernels() -> ctypes.CDLL:
    library = _library()
    assert library is not None  # callers checked `is_available`
    return library


@functools.cache
def _lanes() -> int:
    return int(_kernels().ofa_block_lanes())


def pack_vector(vector: Tensor) -> Tensor:
    """Pad a vector over channels with zeros to whole pairs of machine vectors."""
    pair = 2 * _lanes()
    padded = torch.zeros(-(-len(vector) // pair) * pair)
    padded[: len(vector)] = vector
    return padded


def pack_matrix(weight: Tensor) -> Tensor:
    """Pack pointwise weights of shape (outputs, inputs) for `pointwise` and `expand_depthwise`."""
    outputs, inputs = weight.shape
    pair = 2 * _lanes()
    padded = torch.zeros(-(-outputs // pair) * pair, inputs)
    padded[:outputs] = weight
    return padded.view(-1, pair, inputs).transpose(1, 2).contiguous()


def pack_depthwise(weight: Tensor) -> Tensor:
    """Pack depthwise weights of shape (channels, 1, k, k) for `expand_depthwise`."""
    channels, lanes = weight.shape[0], _lanes()
    padded = torch.zeros(-(-channels // lanes) * lanes, weight[0].numel())
    padded[:channels] = weight.flatten(1)
    return padded.view(-1, lanes, padded.shape[1]).transpose(1, 2).contiguous()


def pointwise(
    x: Tensor,
    packed: Tensor,
    bias: Tensor,
    outputs: int,
    activation: str = "none",
    *,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Compute ``activation(x W + bias) + residual`` over the last dimension of `x`.

    Parameters
    ----------
    x
        Dense tensor whose last dimension are the inputs.
    packed, bias
        From `pack_matrix` and `pack_vector`.
    outputs
        Channels of the result.
    activation
        A key of `ACTIVATIONS`.
    residual
        Added to the result; of its shape.
    out
        Where to write; None for a new tensor.
    """
    if out is None:
        out = torch.empty(*x.shape[:-1], outputs)
    _kernels().ofa_block_pointwise(
        x.numel() // x.shape[-1],
        x.shape[-1],
        outputs,
        ACTIVATIONS[activation],
        torch.get_num_threads(),
        x.data_ptr(),
        packed.data_ptr(),
        bias.data_ptr(),
        None if residual is None else residual.data_ptr(),
        out.data_ptr(),
    )
    return out


def expand_depthwise(
    x: Tensor,
    expand: tuple[Tensor, Tensor],
    depthwise: tuple[Tensor, Tensor],
    *,
    channels: int,
    kernel_size: int,
    stride: int,
    activations: tuple[str, str],
) -> Tensor:
    """Compute a pointwise expansion and the depthwise convolution after it.

    Parameters
    ----------
    x
        Images of shape (n, height, width, inputs).
    expand
        Packed weights and bias of the expansion.
    depthwise
        Packed weights and bias of the depthwise convolution.
    channels
        Channels between the two.
    kernel_size, stride
        Of the depthwise convolution, with 'same' padding.
    activations
        After the expansion, and after the depthwise convolution.

    Returns
    -------
    Tensor of shape (n, ceil(height / stride), ceil(width / stride), channels).
    """
    n, height, width, inputs = x.shape
    out = torch.empty(n, (height - 1) // stride + 1, (width - 1) // stride + 1, channels)
    first, second = (ACTIVATIONS[name] for name in activations)
    values = (n, channels, height, width, kernel_size, stride, torch.get_num_threads())
    sizes = (ctypes.c_int * 10)(*values, inputs, first, second)
    tensors = (x, *expand, *depthwise, out)
    code = _kernels().ofa_block_expand_depthwise(sizes, *(t.data_ptr() for t in tensors))
    check_status("expansion and depthwise convolution", code)
    return out


def pool(x: Tensor) -> Tensor:
    """Return the mean over the pixels, of shape (n, channels)."""
    n, height, width, channels = x.shape
    mean = torch.empty(n, channels)
    sizes = (n, height * width, channels, torch.get_num_threads())
    _kernels().ofa_block_pool(*sizes, x.data_ptr(), mean.data_ptr())
    return mean


def gate(x: Tensor, opening: Tensor) -> None:
    """Multiply `x` in place by the hard sigmoid of `opening`, of shape (n, channels)."""
    n, height, width, channels = x.shape
    sizes = (n, height * width, channels, torch.get_num_threads())
    _kernels().ofa_block_gate(*sizes, opening.data_ptr(), x.data_ptr())


def normalize_(x: Tensor, scale: Tensor, offset: Tensor, activation: str = "none") -> None:
    """Set `x` to ``activation(x * scale + offset)`` in place, per channel."""
    channels = x.shape[-1]
    scale, offset = scale.float().contiguous(), offset.float().contiguous()
    _kernels().ofa_block_normalize(
        x.numel() // channels,
        channels,
        ACTIVATIONS[activation],
        torch.get_num_threads(),
        scale.data_ptr(),
        offset.data_ptr(),
        x.data_ptr(),
    )


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, float64, over all but the last dimension of a dense `x`."""
    channels = x.shape[-1]
    mean, variance = torch.empty(2, channels, dtype=torch.float64)
    sizes = (x.numel() // channels, channels, torch.get_num_threads())
    code = _kernels().ofa_moments(*sizes, x.data_ptr(), mean.data_ptr(), variance.data_ptr())
    check_status("moments", code)
    return mean, variance
