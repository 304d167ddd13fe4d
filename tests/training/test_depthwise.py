from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet
from ofa_compile.supernet import functional as supernet_functional
from ofa_compile.training import depthwise, native

needs_compiler = pytest.mark.usefixtures("c_compiler")

# (images, channels, height, width): channel tails, odd and tiny planes, tile edges.
SHAPES = [
    (2, 5, 7, 9),
    (1, 16, 8, 8),
    (3, 24, 6, 5),
    (2, 40, 14, 13),
    (1, 1, 1, 1),
    (2, 33, 3, 2),
    (1, 72, 17, 4),
    (2, 3, 1, 12),
]


def run(function: object, x: Tensor, weight: Tensor, stride: int) -> list[Tensor]:
    """Return output and both gradients, for a fixed gradient of the output."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    out = function(x, weight, stride)  # type: ignore[operator]
    grad = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    out.backward(grad)
    assert x.grad is not None
    assert weight.grad is not None
    return [out.detach(), x.grad, weight.grad]


def reference(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    return functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])


@needs_compiler
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torch_in_float64(
    shape: tuple[int, int, int, int], stride: int, kernel_size: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    weight = torch.randn(shape[1], 1, kernel_size, kernel_size)
    expected = run(reference, x.double(), weight.double(), stride)
    for layout in (x, x.contiguous(memory_format=torch.channels_last)):
        got = run(depthwise.depthwise_conv2d, layout, weight, stride)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@needs_compiler
def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 18, 5, 6)
    weight = torch.randn(18, 1, 5, 5, requires_grad=True)
    direction, step = torch.randn_like(weight), 1e-2

    def loss(w: Tensor) -> Tensor:
        return depthwise.depthwise_conv2d(x, w, 2).square().sum()

    (grad,) = torch.autograd.grad(loss(weight), weight)
    with torch.no_grad():
        ends = [loss(weight + sign * step * direction) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / (2 * step)
    assert float(difference) == pytest.approx(float((grad * direction).sum()), rel=1e-3)


@needs_compiler
def test_slices_of_weights_and_several_threads() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 24, 9, 9)
    weight = torch.randn(40, 1, 7, 7)
    expected = run(reference, x, weight[:24], 1)
    torch.set_num_threads(2)
    first = run(depthwise.depthwise_conv2d, x, weight[:24], 1)
    second = run(depthwise.depthwise_conv2d, x, weight[:24], 1)
    for ours, again, theirs in zip(first, second, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours, again)


def test_other_types_and_kernels_use_torch() -> None:
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 1, 1)
    out = depthwise.depthwise_conv2d(x, weight, 1)
    assert torch.equal(out, reference(x, weight, 1))
    double = depthwise.depthwise_conv2d(x.double(), torch.randn(4, 1, 3, 3).double(), 1)
    assert double.dtype == torch.float64


@needs_compiler
def test_enable_plugs_into_supernets() -> None:
    assert depthwise.enable()
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 1, 3, 3)
    out = supernet_functional.depthwise_conv2d(x, weight, 1)
    assert out.is_contiguous(memory_format=torch.channels_last)


@needs_compiler
def test_accelerated_subnet_computes_the_same() -> None:
    space = search_space("ofa_mbv3_cifar")
    subnet = build_supernet(space, seed=0).eval().extract(space.smallest())
    x = torch.randn(2, 3, 24, 24)
    expected = subnet(x).detach()
    assert depthwise.accelerate(subnet) == 1 + sum(space.smallest().depths)
    torch.testing.assert_close(subnet(x).detach(), expected, rtol=1e-4, atol=1e-5)
    assert depthwise.accelerate(nn.Conv2d(4, 4, 3, groups=4)) == 0


def test_without_a_compiler_the_reason_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path / "cache"))
    native.load_library.cache_clear()
    try:
        assert native.load_library("torch_depthwise") is None
    finally:
        native.load_library.cache_clear()
    assert "no C compiler" in caplog.text


def test_what_is_compiled_ahead_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, calls = threading.Event(), []

    def compile_slowly(name: str, source: bytes) -> Path:
        calls.append(name)
        begun.set()
        time.sleep(0.1)
        calls.append("done")
        message = "nothing compiled"
        raise OSError(message)

    monkeypatch.setattr(native, "compile_source", compile_slowly)
    native.load_library.cache_clear()
    try:
        native.compile_ahead("torch_block")
        assert begun.wait(10)
        native.load_library("torch_batch_norm")
    finally:
        native.load_library.cache_clear()
    assert calls == ["torch_block", "done", "torch_batch_norm", "done"]


@needs_compiler
def test_a_compiler_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"failed: .*error"):
        native.compile_source("broken", b"int f( { return 0; }")
    assert not list(tmp_path.rglob("*.so"))
