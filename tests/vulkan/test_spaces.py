"""Sampled subnets of every shipped space on a Vulkan device against PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sampled import check_subnets

from ofa_compile.cache import Cache
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.space import search_spaces

pytestmark = [pytest.mark.vulkan, pytest.mark.slow]


@pytest.mark.parametrize("name", search_spaces())
def test_subnets_agree_with_pytorch(
    name: str, tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets(name, 10, vulkan, tmp_path, cache, rng)
