"""Fixtures and skips that every test shares."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from ofa_compile.hardware.target_spec import TargetSpec

# Workers share the cores: threads of PyTorch's would spend their time waiting for each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

SEED = 20_191_129
# The first version whose WASI needs no flag.
_NODE = 20


def _lacks_arm64() -> str | None:
    """Say what is missing for building and running arm64 code, or None."""
    from ofa_compile.errors import MissingDependencyError
    from ofa_compile.hardware.emulator import find_emulator
    from ofa_compile.hardware.target_spec import load_target
    from ofa_compile.hardware.toolchain import find_linker

    target = load_target("arm64")
    try:
        find_linker(target)
        find_emulator(target)
    except MissingDependencyError as err:
        return f"{err}; {err.hint}"
    return None


def _lacks_gpu() -> str | None:
    return None if shutil.which("nvidia-smi") else "no NVIDIA GPU (nvidia-smi not found)"


def _lacks_vulkan() -> str | None:
    from ofa_compile.compiler.vulkan.spirv import find_glslang
    from ofa_compile.errors import OfaCompileError
    from ofa_compile.hardware.vulkan_devices import check_vulkan

    try:
        check_vulkan()
        find_glslang()
    except OfaCompileError as err:
        return f"{err}; {err.hint}"
    return None


def _lacks_node() -> str | None:
    if shutil.which("node") is None:
        return "no Node.js (scripts/system-packages.sh tests)"
    done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    version = done.stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _NODE:
        return f"Node.js {version} is too old; {_NODE} is needed"
    return None


_REQUIREMENTS = {
    "arm64": _lacks_arm64,
    "gpu": _lacks_gpu,
    "node": _lacks_node,
    "vulkan": _lacks_vulkan,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests of hardware that this machine lacks, with the reason."""
    for marker, lacks in _REQUIREMENTS.items():
        if item.get_closest_marker(marker) is not None:
            reason = lacks()
            if reason is not None:
                pytest.skip(reason)


@pytest.fixture
def seed() -> int:
    return SEED


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def pytest_configure() -> None:
    """Keep it out of what is imported before there are fixtures: TVM loads our device from it."""
    os.environ["OFA_COMPILE_CACHE"] = str(Path(__file__).parent / "no-cache")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's cache and workspace out of the tests."""
    patch = pytest.MonkeyPatch()
    patch.setenv("OFA_COMPILE_CACHE", str(tmp_path_factory.mktemp("cache")))
    for name in ("OFA_COMPILE_TARGET", "OFA_COMPILE_WORKSPACE"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _heeded_interrupts() -> None:
    """Heed Ctrl-C, here and in what the tests start: shells have background jobs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def runnable() -> Callable[[TargetSpec], TargetSpec]:
    """Return what passes a target on if this machine links and runs for it, and skips if not."""
    from ofa_compile.errors import MissingDependencyError
    from ofa_compile.hardware.emulator import find_emulator
    from ofa_compile.hardware.toolchain import find_linker

    def check(target: TargetSpec) -> TargetSpec:
        try:
            find_linker(target)
            if not target.is_native:
                find_emulator(target)
        except MissingDependencyError as err:
            pytest.skip(f"{err}; {err.hint}")
        return target

    return check


@pytest.fixture
def tvm_logger() -> None:
    """Keep pytest's handler, which has no name, from TVM's logger, which takes all to have one.

    TVM's tuner stops that logger from propagating, and pytest adds its handler to such loggers
    when the next test begins.
    """
    logging.getLogger("tvm.s_tir.meta_schedule").propagate = True


@pytest.fixture
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).parents[1]
