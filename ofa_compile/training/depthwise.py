"""Fast depthwise convolution for CPU training: a torch function with a backward of its own.

The kernels are in ``runtime/torch_depthwise.c``. Where they cannot be compiled, torch's own
convolution stays in use and the reason is logged. `enable` plugs the function into the supernets.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.training.channels_last import dense_channels_last, empty_channels_last
from ofa_compile.training.native import check_status, load_library

__all__ = ["accelerate", "depthwise_conv2d", "enable", "is_available"]

_KERNEL_SIZES = (3, 5, 7)


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernels with their signatures declared."""
    library = load_library("torch_depthwise")
    if library is not None:
        library.ofa_depthwise_forward.argtypes = [ctypes.c_void_p] * 4
        library.ofa_depthwise_backward.argtypes = [ctypes.c_void_p] * 6
    return library


def is_available() -> bool:
    """Tell whether the compiled kernels can be used on this machine."""
    return _library() is not None


def _sizes(x: Tensor, kernel_size: int, stride: int) -> ctypes.Array[ctypes.c_int]:
    values = (*x.shape, kernel_size, stride, torch.get_num_threads())
    return (ctypes.c_int * len(values))(*values)


class _Depthwise(torch.autograd.Function):
    """Depthwise convolution through the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        library = _library()
        assert library is not None  # `depthwise_conv2d` checked
        x, weight = dense_channels_last(x), weight.contiguous()
        n, c, h, w = x.shape
        out = empty_channels_last((n, c, (h - 1) // stride + 1, (w - 1) // stride + 1))
        code = library.ofa_depthwise_forward(
            _sizes(x, weight.shape[-1], stride), x.data_ptr(), weight.data_ptr(), out.data_ptr()
        )
        check_status("depthwise forward", code)
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        library = _library()
        assert library is not None
        x, weight = ctx.saved_tensors
        grad = dense_channels_last(grads[0])
        grad_x = empty_channels_last(x.shape) if ctx.needs_input_grad[0] else None
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        code = library.ofa_depthwise_backward(
            _sizes(x, weight.shape[-1], ctx.stride),
            x.data_ptr(),
            weight.data_ptr(),
            grad.data_ptr(),
            None if grad_x is None else grad_x.data_ptr(),
            None if grad_weight is None else grad_weight.data_ptr(),
        )
        check_status("depthwise backward", code)
        return grad_x, grad_weight, None


def _is_supported(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Tell whether the compiled kernels serve these tensors."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and weight.shape[-1] == weight.shape[-2]
        and weight.shape[-1] in _KERNEL_SIZES
        and stride in (1, 2)
        # There torch is as fast forward and faster backward: 0.9 instead of 1.8 ms for 64x240x8x8.
        and (weight.shape[-1], stride) != (3, 2)
        and x.numel() > 0
        and is_available()
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve each channel of `x` with its own kernel, with 'same' padding.

    Parameters
    ----------
    x
        Images of shape (n, channels, height, width), best in channels-last memory format.
    weight
        Kernels of shape (channels, 1, k, k), k odd.
    stride
        Stride in both directions.

    Returns
    -------
    Tensor of shape (n, channels, ceil(height / stride), ceil(width / stride)), channels-last.
    """
    if _is_supported(x, weight, stride):
        result: Tensor = _Depthwise.apply(x, weight, stride)  # type: ignore[no-untyped-call]
        return result
    padding = weight.shape[-1] // 2
    return functional.conv2d(x, weight, None, stride, padding, 1, weight.shape[0])


def enable() -> bool:
    """Make every supernet use this convolution; return whether the compiled kernels serve it."""
    from ofa_compile.supernet import functional as supernet_functional

    if not is_available():
        return False
    supernet_functional.set_depthwise_backend(depthwise_conv2d)
    return True


def accelerate(subnet: nn.Module) -> int:
    """Make the depthwise convolutions of one static network use `depthwise_conv2d`.

    Parameters
    ----------
    subnet
        Network of plain modules; parameters and state dict stay as they were.

    Returns
    -------
    Number of convolutions that now do.
    """
    count = 0
    for module in subnet.modules():
        if isinstance(module, nn.Conv2d) and _is_plain_depthwise(module):
            module.forward = _forward_of(module)  # type: ignore[assignment, method-assign]
            count += 1
    return count


def _is_plain_depthwise(conv: nn.Conv2d) -> bool:
    """Tell whether a convolution is what `depthwise_conv2d` computes."""
    k, stride = conv.kernel_size[0], conv.stride[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.groups > 1
        and conv.bias is None
        and conv.kernel_size == (k, k)
        and conv.stride == (stride, stride)
        and conv.padding == (k // 2, k // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )


def _forward_of(conv: nn.Conv2d) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return depthwise_conv2d(x, conv.weight, conv.stride[0])

    return forward
