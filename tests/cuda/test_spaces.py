"""CUDA bundles of sampled subnets of every shipped space, run on the CPU, against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sampled import check_subnets

from ofa_compile.cache import Cache
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import search_spaces

pytestmark = [pytest.mark.usefixtures("software"), pytest.mark.slow]


@pytest.mark.parametrize("name", search_spaces())
def test_subnets_agree_with_pytorch(
    name: str, tmp_path: Path, cuda: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets(name, 3, cuda, tmp_path, cache, rng)


@pytest.mark.parametrize("batch", [8, 64])
def test_a_batch_agrees_with_pytorch(
    batch: int, tmp_path: Path, cuda: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets("ofa_mbv3_cifar", 1, cuda, tmp_path, cache, rng, batch=batch)


@pytest.mark.parametrize(
    ("precision", "name"),
    [("fp16", "ofa_mbv3_cifar"), ("tf32", "ofa_mbv3_cifar"), ("tf32", "ofa_resnet50")],
)
def test_tensor_cores_agree_with_pytorch(
    precision: str,
    name: str,
    tmp_path: Path,
    cuda: TargetSpec,
    cache: Cache,
    rng: np.random.Generator,
) -> None:
    check_subnets(name, 1, target_in(cuda, precision), tmp_path, cache, rng)


def test_depthwise_and_pointwise_in_one_kernel(
    tmp_path: Path, cuda: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets("ofa_mbv3_cifar", 1, cuda, tmp_path, cache, rng, joins=True)
