from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet
from ofa_compile.training import batch_norm, depthwise

pytestmark = pytest.mark.usefixtures("c_compiler")

TORCH = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hswish": functional.hardswish,
}


@pytest.mark.parametrize("activation", sorted(batch_norm.ACTIVATIONS))
@pytest.mark.parametrize(
    "shape", [(5, 7, 3, 3), (2, 16, 8, 8), (4, 24, 5, 5), (1, 1, 3, 1), (3, 40, 9, 11)], ids=str
)
def test_equals_torch_in_float64(shape: tuple[int, ...], activation: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape) * 3 + 5
    gamma, beta = torch.randn(shape[1]), torch.randn(shape[1])
    results: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).clone().requires_grad_() for t in (x, gamma, beta)]
        running = torch.zeros(shape[1], dtype=dtype), torch.ones(shape[1], dtype=dtype)
        if dtype is torch.float32:
            out = batch_norm.batch_norm_activation(
                inputs[0], running, inputs[1], inputs[2], activation
            )
        else:
            y = functional.batch_norm(inputs[0], *running, inputs[1], inputs[2], True)
            out = TORCH[activation](y)
        torch.autograd.backward(
            out, torch.sin(torch.arange(out.numel(), dtype=dtype)).view(out.shape)
        )
        grads = [t.grad for t in inputs if t.grad is not None]
        results.append([out.detach(), *grads, *running])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=2e-5)


def test_a_large_mean_does_not_cancel() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8, 12, 12) * 0.1 + 1000.0
    running = torch.zeros(8), torch.ones(8)
    one, zero = torch.ones(8), torch.zeros(8)
    y = batch_norm.batch_norm_activation(x, running, one, zero, momentum=1.0)
    assert float(y.std()) == pytest.approx(1.0, abs=0.01)
    expected = x.double().var(dim=(0, 2, 3)).float()
    torch.testing.assert_close(running[1], expected, rtol=1e-3, atol=1e-5)


def test_fused_supernet_computes_the_same() -> None:
    space = search_space("ofa_mbv3_cifar")
    torch.manual_seed(0)
    x = torch.randn(4, 3, 24, 24)
    outputs, gradients, names = [], [], []
    for is_fused in (False, True):
        supernet = build_supernet(space, seed=3).train()
        if is_fused:
            assert batch_norm.fuse(supernet) == sum(
                isinstance(m, torch.nn.BatchNorm2d) for m in supernet.modules()
            )
            depthwise.enable()
        architecture = space.smallest()
        supernet(x, architecture).square().sum().backward()
        supernet.eval()
        with torch.no_grad():
            outputs.append(supernet(x, architecture))
            subnet = supernet.extract(architecture)
            torch.testing.assert_close(subnet(x), outputs[-1], rtol=1e-4, atol=1e-5)
        found = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
        names.append(sorted(found))
        gradients.append(found["classifier.linear.weight"])
    assert names[0] == names[1]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)
