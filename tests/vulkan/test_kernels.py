"""Every GPU kernel on a Vulkan device against numpy, at sizes around the edges of its tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import ALL, CONFIGURED, every_configuration
from launches import MACHINE, check

from ofa_compile.cache import Cache
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.workload import Pointwise, Workload
from ofa_compile.hardware.target_spec import TargetSpec

pytestmark = pytest.mark.vulkan


@pytest.mark.parametrize("name", ALL)
def test_agrees_with_numpy(
    name: str, vulkan: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    check(ALL[name], vulkan, tmp_path, cache, rng)


@pytest.mark.slow
@pytest.mark.parametrize("workload", CONFIGURED, ids=lambda workload: workload.kind)
def test_every_configuration_is_right(
    workload: Workload,
    vulkan: TargetSpec,
    tmp_path: Path,
    cache: Cache,
    rng: np.random.Generator,
) -> None:
    check(every_configuration(workload), vulkan, tmp_path, cache, rng)


def test_small_layers_get_small_tiles() -> None:
    kernel = find_kernel(Pointwise(49, 96, 576), "gpu")
    assert kernel is not None
    few, many = (
        kernel.configs(Pointwise(49, 96, 576), GpuMachine(wanted))[0] for wanted in (64, 100_000)
    )
    assert few["rows"] * few["columns"] > many["rows"] * many["columns"]
    assert many["slices"] > 1
    assert MACHINE.wanted_threads == 64
