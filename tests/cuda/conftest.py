from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # for launches
sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))  # for onnx_nets

from software_nvcc import precompile

from ofa_compile.cache import Cache
from ofa_compile.compiler.cuda.nvcc import find_nvcc
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.target_spec import TargetSpec, load_target

HERE = Path(__file__).parent


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
def software(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put a compiler and a driver that use the CPU in the place of NVIDIA's.

    Returns
    -------
    The folder of the driver's library, for LD_LIBRARY_PATH of other processes.
    """
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("software-cuda")
    library = folder / "libcuda.so.1"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", f"-I{runtime_folder()}"]
    flags += [f"-I{HERE}", "-Wl,-soname,libcuda.so.1", "-o", str(library)]
    subprocess.run(["g++", *flags, str(HERE / "software_driver.cc")], check=True)
    precompile(folder)
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    command = f'exec "{sys.executable}" -S "{HERE / "software_nvcc.py"}" "{folder}" "$@"'
    nvcc.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    nvcc.chmod(0o755)
    # Whoever loads libcuda.so.1 in this process from now on gets this one.
    ctypes.CDLL(str(library))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_HOME", str(folder))
        yield folder
