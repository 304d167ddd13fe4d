from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import nn

from ofa_compile.errors import DataError
from ofa_compile.training.bn_calibration import calibrate_bn


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
