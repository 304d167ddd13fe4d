from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # for launches
sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))  # for onnx_nets

from ofa_compile.cache import Cache
from ofa_compile.hardware.target_spec import TargetSpec, load_target


@pytest.fixture(scope="session")
def vulkan() -> TargetSpec:
    return load_target("vulkan")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for all tests, so that run time and shaders are compiled once."""
    return Cache(tmp_path_factory.mktemp("vulkan-cache"))
