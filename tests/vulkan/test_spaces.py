"""Sampled subnets of every shipped space on a Vulkan device against PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from checks import LAYER, check_shaders, check_silence
from sampled import check_subnets

from ofa_compile.cache import Cache
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import search_spaces

pytestmark = [pytest.mark.vulkan, pytest.mark.slow]


needs_tools = pytest.mark.skipif(
    shutil.which("spirv-val") is None or not LAYER.is_file(),
    reason="no spirv-val or no validation layer",
)


@needs_tools
@pytest.mark.parametrize("name", search_spaces())
def test_subnets_agree_with_pytorch_and_the_tools_are_silent(
    name: str, tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    first, *others = check_subnets(name, 10, vulkan, tmp_path, cache, rng)
    assert len(others) == 9
    assert first.executable is not None
    check_silence(first.executable)
    assert check_shaders(cache, tmp_path) > 20


def test_a_subnet_at_full_size(
    tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets("ofa_mbv3_d234_e346_k357_w1.0", 1, vulkan, tmp_path, cache, rng, resolution=224)


def test_halves(tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator) -> None:
    halves = target_in(vulkan, "fp16")
    check_subnets("ofa_mbv3_cifar", 3, halves, tmp_path, cache, rng)
