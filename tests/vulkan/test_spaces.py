"""Sampled subnets of every shipped space on a Vulkan device against PyTorch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from checks import LAYER, WATCHED, check_shaders, complaints_in, is_watching, start_wrongly
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


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the validation layer watch every device that this process opens."""
    for name, value in WATCHED.items():
        monkeypatch.setenv(name, value)


@needs_tools
@pytest.mark.usefixtures("_watched")
@pytest.mark.parametrize("name", search_spaces())
def test_subnets_agree_with_pytorch_and_the_tools_are_silent(
    name: str,
    tmp_path: Path,
    vulkan: TargetSpec,
    cache: Cache,
    rng: np.random.Generator,
    capfd: pytest.CaptureFixture[str],
) -> None:
    watched: list[bool] = []
    check_subnets(
        name, 10, vulkan, tmp_path, cache, rng, look=lambda: watched.append(is_watching())
    )
    assert watched == [True] * 10
    assert complaints_in(capfd) == []
    assert check_shaders(cache, tmp_path) > 20


@needs_tools
@pytest.mark.usefixtures("_watched")
def test_the_layer_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    start_wrongly()
    assert "VUID-VkInstanceCreateInfo-flags-parameter" in complaints_in(capfd)[0]


def test_a_subnet_at_full_size(
    tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets("ofa_mbv3_d234_e346_k357_w1.0", 1, vulkan, tmp_path, cache, rng, resolution=224)


def test_a_batch_agrees_with_pytorch(
    tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    check_subnets("ofa_mbv3_cifar", 1, vulkan, tmp_path, cache, rng, batch=64)


def test_halves(tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator) -> None:
    halves = target_in(vulkan, "fp16")
    check_subnets("ofa_mbv3_cifar", 3, halves, tmp_path, cache, rng)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_depthwise_and_pointwise_in_one_kernel(
    precision: str, tmp_path: Path, vulkan: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    target = target_in(vulkan, precision)
    for space in ("ofa_mbv3_cifar", "ofa_proxyless_d234_e346_k357_w1.3"):
        folder = tmp_path / space
        folder.mkdir()
        check_subnets(space, 1, target, folder, cache, rng, batch=2, joins=True)
