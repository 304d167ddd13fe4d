from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for checks
sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # for launches
sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))  # for onnx_nets
sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))  # for boards

from ofa_compile.cache import Cache
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.vulkan_devices import list_vulkan_devices


@pytest.fixture(scope="session")
def vulkan() -> TargetSpec:
    return load_target("vulkan")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for all tests, so that run time and shaders are compiled once."""
    return Cache(tmp_path_factory.mktemp("vulkan-cache"))


@pytest.fixture(scope="session")
def tvm_target(_own_cache: None) -> Any:
    """Return TVM's target; its device is built where that has not been done."""
    from ofa_compile.compiler.vulkan import tvm_backend

    tvm_backend.autoload()
    return tvm_backend.vulkan_target()


@pytest.fixture(scope="session")
def tvm_elsewhere(tvm_target: Any) -> Any:
    """Return TVM's target for other processes, in which `import tvm` must find the device."""
    if not importlib.metadata.entry_points(group="tvm.backends", name="ofa_vulkan"):
        pytest.skip("installed before there was an entry point: run pip install -e . again")
    return tvm_target


@pytest.fixture(scope="session")
def failing_loader(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the loader can be told to fail."""
    list_vulkan_devices()  # which loads it
    real = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libvulkan.so.1" in line
    )
    folder = tmp_path_factory.mktemp("failing-loader")
    source = Path(__file__).parent / "failing_loader.c"
    flags = ["-shared", "-fPIC", "-w", "-Wl,-soname,libvulkan.so.1"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(folder / "libvulkan.so.1")], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "OFA_REAL_LOADER": str(real)}
