"""Operators that supernets share, with a place to plug in faster ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ofa_compile.space.layer_spec import Activation

DepthwiseBackend = Callable[[Tensor, Tensor, int], Tensor]

_depthwise_backend: DepthwiseBackend | None = None


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread, for many small operations.

    Two gain nothing from them, and wait for each other in every one where the machine is busy:
    eight images of 224 px took 3 s instead of 0.3.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def set_depthwise_backend(backend: DepthwiseBackend | None) -> None:
    """Replace the depthwise convolution of all supernets; None restores PyTorch's.

    Parameters
    ----------
    backend
        Called as ``backend(x, weight, stride)`` with the arguments of `depthwise_conv2d`.
    """
    global _depthwise_backend
    _depthwise_backend = backend


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve every channel with its own kernel, same-padded.

    Parameters
    ----------
    x
        Input of shape (N, C, H, W), any memory format.
    weight
        Kernels of shape (C, 1, k, k), k odd.
    stride
        Step in both directions.

    Returns
    -------
    Output of shape (N, C, ceil(H / stride), ceil(W / stride)).
    """
    if _depthwise_backend is not None:
        return _depthwise_backend(x, weight, stride)
    return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])


def _identity(x: Tensor) -> Tensor:
    return x


# In place where autograd keeps the output, not the input: batch norm's output has no other user.
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _identity,
    "relu": partial(F.relu, inplace=True),
    "relu6": partial(F.hardtanh, min_val=0.0, max_val=6.0, inplace=True),
    "hswish": F.hardswish,
}
_MODULES: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hswish": nn.Hardswish,
}


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """Return an activation for use on a tensor nobody else reads."""
    return _FUNCTIONS[name]


def activation_module(name: Activation) -> nn.Module | None:
    """Return an activation as a module; None for "none"."""
    return None if name == "none" else _MODULES[name]()


def centre_crop(weight: Tensor, kernel_size: int) -> Tensor:
    """Return the centre of convolution kernels of shape (..., K, K) as a view."""
    start = (weight.shape[-1] - kernel_size) // 2
    if start == 0:
        return weight
    return weight[..., start : start + kernel_size, start : start + kernel_size]


def transform_kernel(weight: Tensor, matrix: Tensor, kernel_size: int) -> Tensor:
    """Centre-crop depthwise kernels to the next smaller size, then apply the learned transform.

    Parameters
    ----------
    weight
        Kernels of shape (C, 1, K, K).
    matrix
        Transform of shape (kernel_size**2, kernel_size**2), shared by all channels.
    kernel_size
        Size to crop to.

    Returns
    -------
    Kernels of shape (C, 1, kernel_size, kernel_size).
    """
    flat = centre_crop(weight, kernel_size).reshape(weight.shape[0], -1)
    return torch.mm(flat, matrix.t()).view(-1, 1, kernel_size, kernel_size)


class skip_initialization(TorchFunctionMode):
    """Leave the parameters of modules built inside this context unset, for loading others.

    Default initial values take most of the time of building a network.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the tensor of an initialisation call untouched; run everything else."""
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
