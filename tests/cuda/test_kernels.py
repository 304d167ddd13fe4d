"""The text of every CUDA kernel, run on the CPU, against numpy, at the edges of its tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cases import ALL, CONFIGURED, every_configuration
from launches import check

from ofa_compile.cache import Cache
from ofa_compile.compiler.workload import Workload
from ofa_compile.hardware.target_spec import TargetSpec

pytestmark = pytest.mark.usefixtures("software")


@pytest.mark.parametrize("name", ALL)
def test_agrees_with_numpy(
    name: str, cuda: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    check(ALL[name], cuda, tmp_path, cache, rng)


@pytest.mark.slow
@pytest.mark.parametrize("workload", CONFIGURED, ids=lambda workload: workload.kind)
def test_every_configuration_is_right(
    workload: Workload,
    cuda: TargetSpec,
    tmp_path: Path,
    cache: Cache,
    rng: np.random.Generator,
) -> None:
    check(every_configuration(workload), cuda, tmp_path, cache, rng)
