"""Sharing must not change a figure: every subnet is compared with itself evaluated alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from ofa_compile.space import Architecture, MobileNetSpace, search_space
from ofa_compile.supernet import Supernet, build_supernet
from ofa_compile.supernet.subnet import ResidualBlock
from ofa_compile.training import prefix_evaluation
from ofa_compile.training.block_inference import Activations, block_weights, run_block
from ofa_compile.training.bn_calibration import calibrate_bn
from ofa_compile.training.data import resize
from ofa_compile.training.evaluate import evaluate_subnet
from ofa_compile.training.prefix_evaluation import (
    PrefixEvaluator,
    block_path,
    can_evaluate,
    order_by_prefix,
)
from ofa_compile.training.sampling import sample_families

SPACE = search_space("ofa_mbv3_cifar")


def wild_supernet(space_name: str = SPACE.name) -> Supernet:
    """Return fresh weights with batch norms that are not the identity."""
    supernet = build_supernet(search_space(space_name), num_classes=10, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    for module in supernet.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.3, generator=generator)
    if not can_evaluate(supernet):
        pytest.skip("no C compiler for the kernels")
    return supernet


def some_images(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def own_labels(supernet: Supernet, architecture: Architecture, x: Tensor, own: Tensor) -> Tensor:
    """Return the classes that a subnet, calibrated alone, predicts."""
    subnet = supernet.extract(architecture)
    calibrate_bn(subnet, resize(own, architecture.resolution))
    with torch.no_grad():
        labels: Tensor = subnet(resize(x, architecture.resolution)).argmax(dim=1)
    return labels


def evaluator(supernet: Supernet, x: Tensor, own: Tensor, labels: Tensor) -> PrefixEvaluator:
    return PrefixEvaluator(supernet, lambda r: (resize(x, r), resize(own, r)), labels)


def test_top1_is_that_of_each_subnet_alone() -> None:
    supernet = wild_supernet()
    images, own = some_images(60, 32, 0), some_images(24, 32, 1)
    family = sample_families(SPACE, 10, 0)[2]
    others = [dataclasses.replace(family[0], resolution=r) for r in SPACE.resolutions]
    architectures = list(dict.fromkeys([*family[:3], SPACE.smallest(), SPACE.largest(), *others]))
    labels = torch.randint(0, 10, (60,), generator=torch.Generator().manual_seed(2))
    found = dict(evaluator(supernet, images, own, labels).evaluate(architectures))
    assert set(found) == set(architectures)
    for architecture, top1 in found.items():
        subnet = supernet.extract(architecture)
        calibrate_bn(subnet, resize(own, architecture.resolution))
        alone = evaluate_subnet(subnet, resize(images, architecture.resolution), labels)
        # One image may sit on the edge between two classes.
        assert top1 == pytest.approx(alone, abs=1.01 / 60)
    labels = own_labels(supernet, architectures[0], images, own)
    ((_, top1),) = evaluator(supernet, images, own, labels).evaluate(architectures[:1])
    assert top1 > 0.98


def test_proxyless_head_and_activation() -> None:
    supernet = wild_supernet("ofa_proxyless_d234_e346_k357_w1.3")
    architecture = dataclasses.replace(supernet.space.smallest(), resolution=64)
    images, own = some_images(12, 64, 0), some_images(8, 64, 1)
    labels = own_labels(supernet, architecture, images, own)
    ((_, top1),) = evaluator(supernet, images, own, labels).evaluate([architecture])
    assert top1 == 1.0


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize(("stage", "number", "ratio"), [(0, 0, 3), (1, 1, 4), (3, 0, 6), (4, 1, 3)])
@pytest.mark.parametrize("size", [3, 7, 8])
def test_block(stage: int, number: int, ratio: int, kernel_size: int, size: int) -> None:
    supernet = wild_supernet()
    assert isinstance(SPACE, MobileNetSpace)
    place = 1 + sum(SPACE.stage_max_blocks[:stage]) + number
    elastic = supernet.get_submodule(f"blocks.{place}")
    choice = json.loads(SPACE.largest().to_json())
    choice["kernel_sizes"][stage][number] = kernel_size
    choice["expand_ratios"][stage][number] = ratio
    block = supernet.extract(Architecture.from_dict(choice)).get_submodule(f"blocks.{place}")
    assert isinstance(block, ResidualBlock)
    channels = SPACE.block_in_channels(stage, number)
    x = torch.randn(30, channels, size, size, generator=torch.Generator().manual_seed(0))
    own, seen = x[:20] * 2 + 1, x[20:]
    dense_own, dense_seen = (part.permute(0, 2, 3, 1).contiguous() for part in (own, seen))
    found = run_block(block_weights(block), Activations(dense_own, dense_seen))
    for module in elastic.modules():  # statistics of exactly one batch
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        wanted_own = elastic.train()(own, kernel_size, ratio).permute(0, 2, 3, 1)
        wanted = elastic.eval()(seen, kernel_size, ratio).permute(0, 2, 3, 1)
    torch.testing.assert_close(found.calibration, wanted_own, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.evaluation, wanted, rtol=1e-4, atol=1e-4)


def test_shared_blocks_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = wild_supernet()
    calls: list[int] = []

    def counted(*args: object) -> Activations:
        calls.append(1)
        return run_block(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(prefix_evaluation, "run_block", counted)
    family = sample_families(SPACE, 10, 0)[2]
    images = some_images(4, 32, 0)
    labels = torch.zeros(4, dtype=torch.long)
    shuffled = [family[i] for i in np.random.default_rng(0).permutation(len(family))]
    order = [a for a, _ in evaluator(supernet, images, images, labels).evaluate(shuffled)]
    assert order == order_by_prefix(family)
    distinct = {block_path(a)[: i + 1] for a in family for i in range(len(block_path(a)))}
    assert len(calls) == len(distinct)
    assert len(calls) < 0.85 * sum(len(block_path(a)) for a in family)
