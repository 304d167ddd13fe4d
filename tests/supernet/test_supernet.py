"""Supernet: names and shapes, forward, channel sorting, hashing, initial values."""

import copy
import json

import pytest
import torch

from ofa_compile.errors import ArchitectureError
from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet
from ofa_compile.supernet.blocks import importance_order


def test_names_and_shapes_are_the_authors(supernet, shared_data):
    authors = json.loads((shared_data / "ofa" / "state_dict_shapes.json").read_text())
    if supernet.space.name not in authors:
        pytest.skip("not one of the authors' spaces")
    ours = {name: list(value.shape) for name, value in supernet.state_dict().items()}
    theirs = {
        name: [20, *shape[1:]] if name.startswith("classifier.") else shape
        for name, shape in authors[supernet.space.name].items()
    }
    assert ours == theirs


@torch.no_grad()
def test_no_architecture_means_the_largest(supernet):
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(supernet(x), supernet(x, supernet.space.largest()))


def test_forward_refuses_foreign_architectures(cifar):
    with pytest.raises(ArchitectureError, match="not 'ofa_mbv3_cifar'"):
        cifar(torch.randn(1, 3, 32, 32), search_space("ofa_resnet50").smallest())


def test_training_reaches_every_active_weight(supernet, rng):
    trained = copy.deepcopy(supernet).train()
    trained(torch.randn(2, 3, 64, 64)).sum().backward()
    without = {name for name, value in trained.named_parameters() if value.grad is None}
    # The largest architecture uses every weight but the kernel transforms.
    assert without == {name for name, _ in trained.named_parameters() if name.endswith("_matrix")}


def test_training_a_small_architecture_leaves_the_rest_alone(cifar):
    trained = copy.deepcopy(cifar).train()
    trained(torch.randn(2, 3, 32, 32), trained.space.smallest()).sum().backward()
    weight = trained.get_parameter("blocks.1.conv.inverted_bottleneck.conv.conv.weight")
    assert weight.grad[:48].abs().sum() > 0
    assert weight.grad[48:].abs().sum() == 0
    assert trained.get_parameter("blocks.3.conv.point_linear.conv.conv.weight").grad is None


@torch.no_grad()
@pytest.mark.parametrize("kept", [False, True])
def test_sorting_keeps_the_largest_subnets_function(supernet, kept):
    double = copy.deepcopy(supernet).double()
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = double(x)
    ratio = {"resnet50": 0.25}.get(supernet.space.family, 4)
    double.sort_channels_by_importance([ratio] if kept else [])
    assert torch.allclose(double(x), expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


@torch.no_grad()
def test_sorting_puts_the_important_channels_first(cifar):
    sorted_supernet = copy.deepcopy(cifar)
    sorted_supernet.sort_channels_by_importance()
    for block in sorted_supernet.blocks[1:]:
        importance = block.conv.point_linear.conv.conv.weight.abs().sum((0, 2, 3))
        assert (importance.diff() <= 1e-5).all()


@torch.no_grad()
def test_sorting_keeps_the_function_of_trained_ratios(cifar):
    double = copy.deepcopy(cifar).double()
    space = double.space
    ratios = tuple((4,) * 4 for _ in range(5))
    largest = space.largest()
    architecture = type(largest)(**{**largest.to_dict(), "expand_ratios": ratios})
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = double(x, architecture)
    # Squeeze-excite's middle channels are sorted freely, so look at a stage without it.
    block = double.blocks[1].conv
    before = block(x.new_ones(1, 16, 8, 8), 7, 4)
    double.sort_channels_by_importance([4])
    assert torch.allclose(block(x.new_ones(1, 16, 8, 8), 7, 4), before, atol=1e-12)
    assert double(x, architecture).shape == expected.shape


def test_importance_order_never_crosses_a_kept_width():
    weight = torch.tensor([1.0, 3.0, 2.0, 9.0, 5.0, 7.0]).view(1, 6, 1, 1)
    assert importance_order(weight, []).tolist() == [3, 5, 4, 1, 2, 0]
    assert importance_order(weight, [3]).tolist() == [1, 2, 0, 3, 5, 4]


def test_fresh_weights_follow_the_seed():
    space = search_space("ofa_mbv3_cifar")
    first, same, other = (build_supernet(space, seed=seed).weights_hash for seed in (1, 1, 2))
    assert first == same != other


@torch.no_grad()
def test_weights_hash_sees_every_value(cifar):
    changed = copy.deepcopy(cifar)
    assert changed.weights_hash == cifar.weights_hash
    changed.blocks[5].conv.depth_conv.bn.bn.running_var[-1] += 1e-3
    assert changed.weights_hash != cifar.weights_hash


def test_number_of_classes():
    space = search_space("ofa_mbv3_cifar")
    assert build_supernet(space).num_classes == 10
    assert build_supernet(space, num_classes=3)(torch.randn(2, 3, 32, 32)).shape == (2, 3)
