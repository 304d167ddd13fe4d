"""Batch normalisation fused with its activation, for CPU training in channels-last.

The kernels are in ``runtime/torch_batch_norm.c``: two reads and a write forward, no stored mask or
pre-activation. torch's own batch norm backward took a quarter of a training step here.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.supernet.blocks import ElasticConvLayer, ElasticDepthwiseLayer
from ofa_compile.supernet.functional import activation_function
from ofa_compile.training.channels_last import dense_channels_last, empty_channels_last
from ofa_compile.training.native import check_status, load_library

__all__ = [
    "ACTIVATIONS",
    "activation_name",
    "batch_norm_activation",
    "fuse",
    "is_available",
    "replace_forward",
]

ACTIVATIONS = {"none": 0, "relu": 1, "relu6": 2, "hswish": 3}


@functools.cache
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernels with their signatures declared."""
    library = load_library("torch_batch_norm")
    if library is not None:
        head: list[Any] = [ctypes.c_long, ctypes.c_int, ctypes.c_int]
        pointers: list[Any] = [ctypes.c_void_p]
        scalars: list[Any] = [ctypes.c_float] * 2
        library.ofa_batch_norm_forward.argtypes = head + scalars + pointers * 7
        library.ofa_batch_norm_backward.argtypes = head + pointers * 8
    return library


def is_available() -> bool:
    """Tell whether the compiled kernels can be used on this machine."""
    return _library() is not None


class _BatchNormActivation(torch.autograd.Function):
    """Training-mode batch norm and activation through the compiled kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        running: tuple[Tensor, Tensor] | None,
        scalars: tuple[float, float],
        kind: int,
    ) -> Tensor:
        library = _library()
        assert library is not None  # `batch_norm_activation` checked
        x = dense_channels_last(x)
        gamma, beta = gamma.contiguous(), beta.contiguous()
        n, c, h, w = x.shape
        out = empty_channels_last((n, c, h, w))
        statistics = torch.empty(2, c)
        momentum, epsilon = scalars
        code = library.ofa_batch_norm_forward(
            n * h * w,
            c,
            kind,
            epsilon,
            momentum,
            x.data_ptr(),
            gamma.data_ptr(),
            beta.data_ptr(),
            None if running is None else running[0].data_ptr(),
            None if running is None else running[1].data_ptr(),
            statistics.data_ptr(),
            out.data_ptr(),
        )
        check_status("batch norm forward", code)
        ctx.save_for_backward(x, gamma, beta, statistics)
        ctx.kind = kind
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        library = _library()
        assert library is not None
        x, gamma, beta, statistics = ctx.saved_tensors
        grad = dense_channels_last(grads[0])
        n, c, h, w = x.shape
        grad_x = empty_channels_last((n, c, h, w))
        grad_gamma, grad_beta = torch.empty(c), torch.empty(c)
        code = library.ofa_batch_norm_backward(
            n * h * w,
            c,
            ctx.kind,
            x.data_ptr(),
            gamma.data_ptr(),
            beta.data_ptr(),
            statistics.data_ptr(),
            grad.data_ptr(),
            grad_x.data_ptr(),
            grad_gamma.data_ptr(),
            grad_beta.data_ptr(),
        )
        check_status("batch norm backward", code)
        return grad_x, grad_gamma, grad_beta, None, None, None


_TORCH_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hswish": functional.hardswish,
}


def batch_norm_activation(
    x: Tensor,
    running: tuple[Tensor, Tensor] | None,
    gamma: Tensor,
    beta: Tensor,
    activation: str = "none",
    *,
    training: bool = True,
    momentum: float = 0.1,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise `x` over the batch and apply an activation.

    Parameters
    ----------
    x
        Images of shape (n, channels, height, width), best in channels-last memory format.
    running
        Running mean and variance, each contiguous of shape (channels,), updated in place when
        training; None keeps no statistics.
    gamma, beta
        Scale and shift of shape (channels,).
    activation
        A key of `ACTIVATIONS`.
    training
        Use the batch's statistics; otherwise the running ones.
    momentum
        Weight of the new statistics in the running ones.
    epsilon
        Added to the variance.

    Returns
    -------
    Tensor of the shape of `x`, channels-last.
    """
    is_native = training and x.device.type == "cpu" and x.dtype == torch.float32
    if is_native and x.numel() > 0 and is_available():
        kind = ACTIVATIONS[activation]
        scalars = (momentum, epsilon)
        result: Tensor = _BatchNormActivation.apply(  # type: ignore[no-untyped-call]
            x, gamma, beta, running, scalars, kind
        )
        return result
    mean, var = running if running is not None else (None, None)
    y = functional.batch_norm(x, mean, var, gamma, beta, training, momentum, epsilon)
    return _TORCH_ACTIVATIONS[activation](y)


def _normalize(bn: nn.BatchNorm2d, activation: str) -> Callable[[Tensor], Tensor]:
    """Return the fused forward of a batch norm that serves the first C channels."""

    def forward(x: Tensor) -> Tensor:
        channels = x.shape[1]
        assert bn.running_mean is not None  # both exist: track_running_stats is never off
        assert bn.running_var is not None
        return batch_norm_activation(
            x,
            (bn.running_mean[:channels], bn.running_var[:channels]),
            bn.weight[:channels],
            bn.bias[:channels],
            activation,
            training=bn.training,
            momentum=bn.momentum or 0.0,
            epsilon=bn.eps,
        )

    return forward


def _identity(x: Tensor) -> Tensor:
    return x


def _elastic_activation(layer: ElasticConvLayer | ElasticDepthwiseLayer) -> str | None:
    """Return the name of an elastic layer's activation, None for one that has no kernel."""
    for name in ("none", "relu", "relu6", "hswish"):
        if layer.activation is activation_function(name):
            return name
    return None


_MODULE_NAMES = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hswish"}


def activation_name(layer: nn.Sequential) -> str | None:
    """Return the name of a fixed layer's activation, None for one that has no kernel."""
    act = layer._modules.get("act")
    return "none" if act is None else _MODULE_NAMES.get(type(act))


def fuse(supernet: nn.Module) -> int:
    """Make a supernet's layers use `batch_norm_activation`, where its kernels are available.

    Replaces the `forward` of batch norms and activations on this instance only; parameters,
    state dict, evaluation mode and `extract` stay as they were.

    Returns
    -------
    Number of batch norms now fused.
    """
    if not is_available():
        return 0
    fused = 0
    for module in supernet.modules():
        if isinstance(module, ElasticConvLayer | ElasticDepthwiseLayer):
            name = _elastic_activation(module)
            if name is not None:
                replace_forward(module.bn, _normalize(module.bn.bn, name))
                module.activation = _identity
                fused += 1
        elif isinstance(module, nn.Sequential):
            fused += _fuse_static(module)
    return fused


def _fuse_static(layer: nn.Sequential) -> int:
    """Fuse the batch norm and activation of a fixed layer, if it has a batch norm."""
    bn, act = layer._modules.get("bn"), layer._modules.get("act")
    name = activation_name(layer)
    if not isinstance(bn, nn.BatchNorm2d) or name is None:
        return 0
    replace_forward(bn, _normalize(bn, name))
    if act is not None:
        replace_forward(act, _identity)
    return 1


def replace_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    """Give one instance another forward; its class and state stay."""
    module.forward = forward
