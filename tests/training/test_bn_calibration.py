from __future__ import annotations

import copy
import dataclasses
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ofa_compile.errors import DataError
from ofa_compile.space import Architecture, search_space
from ofa_compile.supernet import build_supernet
from ofa_compile.training import block_kernels
from ofa_compile.training.bn_calibration import calibrate_bn, calibrate_bn_in_parts


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, bias=False),
        nn.BatchNorm2d(4),
    ).eval()


def running_mean(network: nn.Sequential, index: int) -> torch.Tensor:
    return cast(torch.Tensor, network[index].running_mean)


def running_var(network: nn.Sequential, index: int) -> torch.Tensor:
    return cast(torch.Tensor, network[index].running_var)


@pytest.mark.parametrize("batch_size", [4, 7, 100])
def test_statistics_of_the_first_layer_are_exact(batch_size: int) -> None:
    network, images = small_network(), torch.randn(30, 3, 8, 8) * 2 + 1
    calibrate_bn(network, images, batch_size=batch_size)
    y = network[0](images).detach()
    torch.testing.assert_close(
        running_mean(network, 1), y.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(running_var(network, 1), y.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_one_batch_makes_evaluation_equal_training() -> None:
    network, images = small_network(), torch.randn(20, 3, 8, 8)
    calibrate_bn(network, images)
    evaluated = network(images)
    trained = network.train()(images)
    # Training divides by n, the running variance by n - 1.
    torch.testing.assert_close(evaluated, trained, rtol=1e-2, atol=1e-2)


def test_modes_and_weights_stay() -> None:
    network = small_network()
    network[1].train()
    before = cast(nn.Conv2d, network[0]).weight.clone()
    calibrate_bn(network, torch.randn(8, 3, 8, 8))
    assert network[1].training
    assert not network[4].training
    assert torch.equal(cast(nn.Conv2d, network[0]).weight, before)
    assert "forward" not in vars(network[1])


def test_result_is_repeatable_and_forgets_the_old() -> None:
    network, images = small_network(), torch.randn(16, 3, 8, 8)
    running_mean(network, 1).fill_(1e6)
    calibrate_bn(network, images)
    first = running_mean(network, 1).clone()
    calibrate_bn(network, images)
    assert torch.equal(first, running_mean(network, 1))


def test_no_images() -> None:
    with pytest.raises(DataError, match="at least one image"):
        calibrate_bn(small_network(), torch.empty(0, 3, 8, 8))


def test_network_without_batch_norm_is_left_alone() -> None:
    calibrate_bn(nn.Conv2d(3, 4, 1), torch.randn(2, 3, 4, 4))


def architectures() -> list[Architecture]:
    """Return one of each family and width: all kernel sizes, strides, with and without SE."""
    rng = np.random.default_rng(0)
    names = (
        "ofa_mbv3_d234_e346_k357_w1.0",
        "ofa_mbv3_d234_e346_k357_w1.2",
        "ofa_proxyless_d234_e346_k357_w1.3",
        "ofa_resnet50",
    )
    drawn = [search_space(name).sample(rng) for name in names]
    sizes = (68, 64, 64, 64)
    chosen = [dataclasses.replace(a, resolution=r) for a, r in zip(drawn, sizes, strict=True)]
    return [*chosen, search_space("ofa_mbv3_cifar").largest()]


@pytest.mark.parametrize("architecture", architectures(), ids=lambda a: a.space)
def test_statistics_are_those_of_torch(architecture: Architecture) -> None:
    """Of two batches, each normalised with its own statistics: training mode, in float64."""
    supernet = build_supernet(search_space(architecture.space), num_classes=10, seed=0)
    subnet = supernet.extract(architecture)
    generator = torch.Generator().manual_seed(1)
    for norm in batch_norms(subnet):
        nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
        nn.init.normal_(norm.bias, 0.0, 0.3, generator=generator)
    exact = copy.deepcopy(subnet).double().train()
    seen: dict[nn.Module, list[torch.Tensor]] = {norm: [] for norm in batch_norms(exact)}
    for norm in batch_norms(exact):
        norm.register_forward_pre_hook(lambda module, x: seen[module].append(x[0]))
    size = architecture.resolution
    images = torch.randn(12, 3, size, size, generator=generator)
    images += torch.randn(12, 3, 1, 1, generator=generator)
    with torch.no_grad():
        for part in torch.split(images, 6):
            exact(part.double())
    calibrate_bn_in_parts(subnet, torch.split(images, 6))
    is_ours = block_kernels.is_available() and architecture.space != "ofa_resnet50"
    tolerance = 5e-5 if is_ours else 5e-3  # torch's float32 is less exact
    for norm, inputs in zip(batch_norms(subnet), seen.values(), strict=True):
        x = torch.cat(inputs)
        wanted = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3))
        mean, variance = running_statistics(norm)
        assert ((mean - wanted[0]).abs() / wanted[1].sqrt()).max() < tolerance
        torch.testing.assert_close(variance.double(), wanted[1], rtol=tolerance, atol=1e-9)


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def running_statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    return cast(torch.Tensor, norm.running_mean), cast(torch.Tensor, norm.running_var)


def test_blocks_run_through_our_kernels_where_they_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not block_kernels.is_available():
        pytest.skip("no C compiler for the kernels")
    space = search_space("ofa_mbv3_cifar")
    subnet, images = build_supernet(space).extract(space.smallest()), torch.randn(8, 3, 32, 32)
    calls: list[int] = []
    expand_depthwise = block_kernels.expand_depthwise

    def counted(*args: Any, **settings: Any) -> torch.Tensor:
        calls.append(1)
        return expand_depthwise(*args, **settings)

    monkeypatch.setattr(block_kernels, "expand_depthwise", counted)
    calibrate_bn(subnet, images)
    assert len(calls) == sum(space.smallest().depths)
    ours = {name: value.clone() for name, value in subnet.named_buffers()}
    monkeypatch.setattr(block_kernels, "is_available", lambda: False)
    calibrate_bn(subnet, images)
    assert len(calls) == sum(space.smallest().depths)
    for name, value in subnet.named_buffers():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)
    assert all("forward" not in vars(module) for module in subnet.modules())


def test_moments_do_not_depend_on_the_number_of_threads() -> None:
    if not block_kernels.is_available():
        pytest.skip("no C compiler for the kernels")
    x = torch.randn(3, 7, 11, 20, generator=torch.Generator().manual_seed(0)) + 100
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(torch.stack(block_kernels.channel_moments(x)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    rows = x.double().flatten(0, 2)
    torch.testing.assert_close(found[0], torch.stack([rows.mean(0), rows.var(0, correction=0)]))
