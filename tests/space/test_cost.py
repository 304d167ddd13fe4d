"""Costs without building: they must equal what the extracted PyTorch subnet does."""

import dataclasses

import pytest
import torch
from torch import nn

from ofa_compile.space import (
    activation_peak_bytes,
    macs,
    num_parameters,
    search_space,
    weight_bytes,
)
from ofa_compile.space.cost import peak_bytes
from ofa_compile.supernet import build_supernet


def count_macs(subnet, resolution):
    """Count by hooks on convolutions and linear layers."""
    total = 0

    def add(module, inputs, output):
        nonlocal total
        del inputs
        positions = output[0, 0].numel() if output.ndim == 4 else 1
        total += module.weight.numel() * positions

    for module in subnet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with torch.no_grad():
        subnet(torch.zeros(1, 3, resolution, resolution))
    return total


@pytest.mark.parametrize("resolution", [32, 44, 64])
def test_costs_equal_pytorchs(space, rng, resolution):
    supernet = build_supernet(space, num_classes=12, seed=None)
    for architecture in (space.smallest(), space.sample(rng)):
        chosen = dataclasses.replace(architecture, resolution=resolution)
        subnet = supernet.extract(chosen)
        parameters = sum(parameter.numel() for parameter in subnet.parameters())
        assert num_parameters(chosen, num_classes=12) == parameters
        assert macs(chosen, num_classes=12) == count_macs(subnet, resolution)
        folded = sum(
            module.weight.numel() if isinstance(module, nn.BatchNorm2d) else 0
            for module in subnet.modules()
        )
        assert weight_bytes(chosen, num_classes=12) == 4 * (parameters - folded)


def test_default_number_of_classes_is_the_spaces():
    space = search_space("ofa_mbv3_cifar")
    largest = space.largest()
    assert macs(largest) == macs(largest, num_classes=10) < macs(largest, num_classes=11)


def test_space_can_be_given(rng):
    space = dataclasses.replace(search_space("ofa_mbv3_cifar"), name="mine")
    architecture = space.sample(rng)
    assert macs(architecture, space=space) > 0


def test_costs_grow_with_the_architecture(space):
    small, large = space.smallest(), space.largest()
    for cost in (macs, num_parameters, weight_bytes, activation_peak_bytes):
        assert cost(small) < cost(large)


def test_activation_peak_of_inverted_residuals():
    space = search_space("ofa_mbv3_cifar")
    # Stage 0, block 0, no residual: the depthwise layer reads 96 channels, strides, writes 96.
    assert activation_peak_bytes(space.largest(32)) == 4 * 96 * (32 * 32 + 16 * 16)


def test_activation_peak_counts_the_residual():
    space = search_space("ofa_mbv3_cifar")
    layers = [layer for layer in space.layers(space.largest(32)) if layer.block == 1]
    block = [layer for layer in layers if layer.stage == 0]
    # Stage 0, block 1: depthwise reads and writes 96 channels of 16x16 while 16 wait.
    assert peak_bytes(block) == 4 * 16 * 16 * (96 + 96 + 16)


def test_activation_peak_counts_the_shortcut():
    space = search_space("ofa_resnet50")
    largest = dataclasses.replace(space.largest(), resolution=224)
    layers = [layer for layer in space.layers(largest) if (layer.stage, layer.block) == (1, 0)]
    # The 512-channel shortcut waits while conv1 reads 256 channels of 56x56 and writes 176.
    conv1 = 4 * (56 * 56 * (256 + 176) + 28 * 28 * 512)
    # conv2 writes 176 channels of 28x28; smaller.
    assert peak_bytes(layers) == conv1
