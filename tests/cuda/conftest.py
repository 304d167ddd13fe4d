from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # for launches
sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))  # for onnx_nets
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # for gpu_prebuilt

from drivers import (
    CHOICE,
    Driver,
    lacks_gpu,
    real_driver,
    software_driver,
    software_nvcc,
)
from kit import VARIABLE, Kit, unpack
from kit_build import Builder

from ofa_compile.cache import Cache
from ofa_compile.compiler.cuda.nvcc import find_nvcc
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.cuda_devices import list_cuda_devices
from ofa_compile.hardware.target_spec import TargetSpec, load_target


@pytest.fixture
def real_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let NVIDIA's own compiler be found; skip where there is none."""
    monkeypatch.delenv("CUDA_HOME", raising=False)
    try:
        find_nvcc()
    except MissingDependencyError as err:
        pytest.skip(f"{err}; {err.hint}")


@pytest.fixture(scope="session")
def cuda() -> TargetSpec:
    return load_target("cuda")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for all tests, so that run time and kernels are compiled once."""
    return Cache(tmp_path_factory.mktemp("cuda-cache"))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """NVIDIA's driver where there is a GPU; otherwise one, and a compiler for it, for the CPU."""
    folder = tmp_path_factory.mktemp("cuda-driver")
    if lacks_gpu() is None:
        yield real_driver(folder)
        return
    list_cuda_devices.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        found = software_driver(folder)
        software_nvcc(folder)
        patch.setenv("CUDA_HOME", str(folder))
        yield found
    list_cuda_devices.cache_clear()


@pytest.fixture(scope="session")
def software(driver: Driver) -> Path:
    """Put a compiler and a driver that use the CPU in the place of NVIDIA's.

    Returns
    -------
    The folder of the driver's library, for LD_LIBRARY_PATH of other processes.
    """
    if driver.is_real:
        pytest.skip(f"there is a GPU here, and one process has one driver: set {CHOICE}=software")
    return driver.path.parent


@pytest.fixture(scope="session")
def kit(
    driver: Driver,
    cache: Cache,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Kit:
    """What tests run: prebuilt where the environment names a kit, and otherwise built here."""
    folder, given = tmp_path_factory.mktemp("cuda-kit"), os.environ.get(VARIABLE)
    if given:
        return Kit(unpack(Path(given), folder), None, f"it comes from {VARIABLE}")
    lacks = _lacks_builder()
    if lacks is not None:
        return Kit(folder, None, f"{lacks}; give a kit ({VARIABLE})")
    # Not an argument, since a checkout that is not installed finds no targets.
    target = request.getfixturevalue("cuda")
    return Kit(folder, Builder(target, cache, is_quick=not driver.is_real))


@pytest.fixture
def workers(driver: Driver, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that this one starts find the driver, and share the cache."""
    monkeypatch.setenv("LD_LIBRARY_PATH", driver.library_path())
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(cache.root))


@pytest.fixture
def commands(workers: None) -> None:
    """Let commands of ofa-compile build and run here; skip where they cannot."""
    lacks = _lacks_builder()
    if lacks is not None:
        pytest.skip(lacks)


def _lacks_builder() -> str | None:
    if importlib.util.find_spec("tvm") is None:
        return "TVM is not installed"
    try:
        find_nvcc()
    except MissingDependencyError as err:
        return f"{err}; {err.hint}"
    return None
