"""Elastic layers, each against a direct computation."""

import numpy as np
import torch
from torch.nn import functional as F

from ofa_compile.supernet import functional
from ofa_compile.supernet.elastic import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticDepthwiseConv2d,
    ElasticLinear,
    ElasticSqueezeExcite,
)


def test_convolution_uses_the_first_channels():
    layer = ElasticConv2d(8, 16, kernel_size=3, stride=2)
    x = torch.randn(2, 5, 9, 9)
    expected = F.conv2d(x, layer.conv.weight[:7, :5], stride=2, padding=1)
    assert torch.equal(layer(x, 7), expected)


def test_smaller_kernel_is_crop_then_transform():
    layer = ElasticDepthwiseConv2d(8, (3, 5, 7), stride=1)
    with torch.no_grad():
        for name in ("7to5_matrix", "5to3_matrix"):
            getattr(layer, name).normal_()
    weight = layer.conv.weight.detach().numpy()[:6]
    to5 = layer.get_parameter("7to5_matrix").detach().numpy()
    to3 = layer.get_parameter("5to3_matrix").detach().numpy()
    # A row vector of the crop, times the transposed matrix, as in the authors' linear layer.
    five = (weight[:, :, 1:6, 1:6].reshape(6, 25) @ to5.T).reshape(6, 1, 5, 5)
    three = (five[:, :, 1:4, 1:4].reshape(6, 9) @ to3.T).reshape(6, 1, 3, 3)
    for size, expected in ((7, weight), (5, five), (3, three)):
        np.testing.assert_allclose(
            layer.active_weight(6, size).detach().numpy(), expected, rtol=1e-5, atol=1e-6
        )


def test_fresh_transforms_are_plain_crops():
    layer = ElasticDepthwiseConv2d(4, (3, 5, 7), stride=1)
    assert torch.allclose(layer.active_weight(4, 3), layer.conv.weight[:, :, 2:5, 2:5])


def test_transforms_learn():
    layer = ElasticDepthwiseConv2d(4, (3, 5, 7), stride=1)
    layer(torch.randn(1, 4, 8, 8), 3).square().sum().backward()
    assert layer.get_parameter("7to5_matrix").grad.abs().sum() > 0
    assert layer.get_parameter("5to3_matrix").grad.abs().sum() > 0


def test_batch_norm_updates_only_active_statistics():
    layer = ElasticBatchNorm2d(8, 1e-5).train()
    x = 3 + 2 * torch.randn(64, 5, 4, 4)
    y = layer(x)
    assert torch.allclose(y.mean((0, 2, 3)), torch.zeros(5), atol=1e-5)
    mean, var = layer.bn.running_mean, layer.bn.running_var
    assert torch.allclose(mean[:5], 0.1 * x.mean((0, 2, 3)), atol=1e-5)
    assert torch.equal(mean[5:], torch.zeros(3))
    assert torch.equal(var[5:], torch.ones(3))
    layer.eval()
    before = mean.clone()
    expected = F.batch_norm(x, mean[:5], var[:5], layer.bn.weight[:5], layer.bn.bias[:5])
    assert torch.allclose(layer(x), expected)
    assert torch.equal(mean, before)


def test_squeeze_excite_of_the_first_channels():
    layer = ElasticSqueezeExcite(16, 8)
    x = torch.randn(2, 10, 3, 3)
    reduce, expand = layer.fc.reduce, layer.fc.expand
    hidden = F.relu(F.conv2d(x.mean((2, 3), keepdim=True), reduce.weight[:4, :10], reduce.bias[:4]))
    gate = F.relu6(F.conv2d(hidden, expand.weight[:10, :4], expand.bias[:10]) + 3) / 6
    assert torch.allclose(layer(x, 4), x * gate, atol=1e-6)


def test_linear_of_the_first_features():
    layer = ElasticLinear(8, 3)
    x = torch.randn(2, 5)
    expected = x @ layer.linear.weight[:, :5].T + layer.linear.bias
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_depthwise_backend_can_be_replaced():
    calls = []

    def backend(x, weight, stride):
        calls.append((tuple(x.shape), tuple(weight.shape), stride))
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, weight.shape[0])

    layer = ElasticDepthwiseConv2d(4, (3, 5), stride=2)
    x = torch.randn(1, 3, 7, 7)
    expected = layer(x, 5)
    functional.set_depthwise_backend(backend)
    try:
        assert torch.equal(layer(x, 5), expected)
    finally:
        functional.set_depthwise_backend(None)
    assert calls == [((1, 3, 7, 7), (3, 1, 5, 5), 2)]
    layer(x, 5)
    assert len(calls) == 1
