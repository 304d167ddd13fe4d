"""Extraction: a subnet computes what the supernet computes at its architecture."""

import numpy as np
import pytest
import torch
from torch import fx, nn

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import search_space
from ofa_compile.supernet import compute_logits

PLAIN = (
    nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid,
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d, nn.Linear, nn.Flatten,
)  # fmt: skip


def relative_error(actual, expected):
    return float((actual - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_fifty_random_architectures_equal_the_supernet(supernet, rng):
    generator = torch.Generator().manual_seed(0)
    space = supernet.space
    architectures = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(48))]
    for architecture in architectures:
        size = int(rng.choice([32, 36, 40]))
        x = torch.randn(1, 3, size, size, generator=generator)
        expected = supernet(x, architecture)
        actual = supernet.extract(architecture)(x)
        assert actual.shape == (1, 20)
        assert relative_error(actual, expected) <= 1e-5


def test_subnet_is_plain_and_traceable(supernet, rng):
    subnet = supernet.extract(supernet.space.sample(rng))
    assert not subnet.training
    graph = fx.symbolic_trace(subnet).graph
    operations = {
        node.target for node in graph.nodes if node.op in {"call_function", "call_method"}
    }
    assert {operation.__name__ for operation in operations} <= {"add", "mul"}
    leaves = [subnet.get_submodule(n.target) for n in graph.nodes if n.op == "call_module"]
    assert all(type(leaf) in PLAIN for leaf in leaves)


def test_subnet_owns_its_weights(cifar):
    subnet = cifar.extract(cifar.space.largest())
    before = cifar.weights_hash
    with torch.no_grad():
        for value in subnet.state_dict().values():
            value.zero_()
    assert cifar.weights_hash == before


def test_subnet_can_be_trained(cifar):
    subnet = cifar.extract(cifar.space.smallest()).train()
    subnet(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in subnet.parameters())


def test_subnet_is_contiguous_also_from_a_channels_last_supernet(cifar, rng):
    architecture = cifar.space.sample(rng)
    expected = cifar.extract(architecture).state_dict()
    try:
        cifar.to(memory_format=torch.channels_last)
        state = cifar.extract(architecture).state_dict()
    finally:
        cifar.to(memory_format=torch.contiguous_format)
    assert all(value.is_contiguous() for value in state.values())
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


def test_names_are_those_of_the_authors_specialised_networks(cifar):
    names = set(cifar.extract(cifar.space.smallest()).state_dict())
    assert {
        "first_conv.conv.weight",
        "blocks.0.conv.depth_conv.conv.weight",
        "blocks.1.conv.inverted_bottleneck.bn.running_mean",
        "blocks.3.conv.depth_conv.se.fc.reduce.bias",
        "final_expand_layer.conv.weight",
        "feature_mix_layer.conv.weight",
        "classifier.linear.weight",
    } <= names
    # Active blocks are numbered without gaps: the fixed one and two per stage.
    assert {name.split(".")[1] for name in names if name.startswith("blocks.")} == {
        str(number) for number in range(11)
    }


def test_foreign_architecture_is_refused(cifar):
    with pytest.raises(ArchitectureError, match="of space 'ofa_resnet50'"):
        cifar.extract(search_space("ofa_resnet50").largest())


def test_logits_are_computed_by_one_thread_and_the_setting_comes_back(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    used = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).eval()
    assert compute_logits(module, np.ones((2, 3, 1, 1), np.float32)).shape == (2, 2)
    with pytest.raises(RuntimeError):
        compute_logits(module, np.ones((2, 4, 1, 1), np.float32))
    assert used == [1, 3, 1, 3]
