from __future__ import annotations

import importlib.metadata
import json
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
def tvm_modules(tvm_target: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the exported programs of tvm_kernels.py."""
    import tvm_kernels

    folder = tmp_path_factory.mktemp("tvm-modules")
    for name, executable in tvm_kernels.compile_programs(tvm_target).items():
        executable.export_library(str(folder / f"{name}.so"))
    return folder


def _stand_in(source: str, folder: Path) -> dict[str, str]:
    """Return an environment in which a C file of this folder stands before the real loader."""
    list_vulkan_devices()  # which loads it
    real = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libvulkan.so.1" in line
    )
    path = Path(__file__).parent / source
    flags = ["-shared", "-fPIC", "-w", "-Wl,-soname,libvulkan.so.1"]
    subprocess.run(["gcc", *flags, str(path), "-o", str(folder / "libvulkan.so.1")], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "OFA_REAL_LOADER": str(real)}


@pytest.fixture(scope="session")
def failing_loader(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the loader can be told to fail."""
    return _stand_in("failing_loader.c", tmp_path_factory.mktemp("failing-loader"))


@pytest.fixture(scope="session")
def counting_loader(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment in which the loader counts what there is."""
    return _stand_in("counting_loader.c", tmp_path_factory.mktemp("counting-loader"))


@pytest.fixture(scope="session")
def two_devices(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return an environment with Mesa's software device, and a second one of second_driver.c."""
    first = next(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json"), None)
    if first is None:
        pytest.skip("no software driver (Debian: mesa-vulkan-drivers)")
    folder = tmp_path_factory.mktemp("second-driver")
    source, library = Path(__file__).parent / "second_driver.c", folder / "libsecond.so"
    subprocess.run(["gcc", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    driver = json.loads(first.read_text())
    environment = {"OFA_FIRST_DRIVER": driver["ICD"]["library_path"]}
    driver["ICD"]["library_path"] = str(library)
    (folder / "second.json").write_text(json.dumps(driver))
    drivers = f"{folder / 'second.json'}:{first}"  # loaders here count from the last one
    return {**environment, "VK_DRIVER_FILES": drivers, "VK_ICD_FILENAMES": drivers}
