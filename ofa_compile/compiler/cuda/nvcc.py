"""C++ for CUDA -> a fat binary by nvcc, for several architectures; needs no GPU."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import BuildError, MissingDependencyError

_TIMEOUT_S = 600
_USUAL_PLACE = "/usr/local/cuda/bin/nvcc"
_FLAGS = ("-std=c++17", "-O3", "--fmad=true", "-Wno-deprecated-gpu-targets")


@dataclass(frozen=True)
class Nvcc:
    """NVIDIA's compiler.

    Attributes
    ----------
    path
        The program.
    version
        Of CUDA, such as "13.0".
    build
        All that it prints about itself in its last line.
    """

    path: str
    version: str
    build: str = ""

    @property
    def driver_version(self) -> int:
        """The version of CUDA as drivers count it: 13000 for 13.0."""
        major, minor = self.version.split(".")
        return int(major) * 1000 + int(minor) * 10


@functools.cache
def _ask(path: str) -> Nvcc | None:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"release (\d+\.\d+)", done.stdout)
    return Nvcc(path, match[1], done.stdout.strip().splitlines()[-1]) if match else None


def find_nvcc() -> Nvcc:
    """Return nvcc: that of `CUDA_HOME`, the one on PATH, or the usual place's.

    Raises
    ------
    MissingDependencyError
        If there is none that runs.
    """
    home = os.environ.get("CUDA_HOME")
    places = [str(Path(home, "bin", "nvcc"))] if home else []
    places += [shutil.which("nvcc") or "", _USUAL_PLACE]
    for path in places:
        found = _ask(path) if path and Path(path).is_file() else None
        if found is not None:
            return found
    msg = "no nvcc, which compiles kernels for CUDA"
    hint = "install the CUDA toolkit (Debian: sudo apt-get install nvidia-cuda-toolkit), or set "
    hint += "CUDA_HOME to its folder; neither a GPU nor a driver is needed"
    raise MissingDependencyError(msg, hint=hint)


def compile_cuda(source: str, name: str, architectures: Sequence[str]) -> bytes:
    """Compile a kernel.

    Parameters
    ----------
    source
        C++ that includes `cuda_kernel.h`.
    name
        For messages.
    architectures
        Such as "sm_75": machine code of each, and PTX of the last, from which drivers translate
        for GPUs that came later.

    Raises
    ------
    BuildError
        If nvcc refuses it; the message holds what it printed.
    MissingDependencyError
        If there is no nvcc.
    """
    nvcc = find_nvcc()
    with tempfile.TemporaryDirectory(prefix="ofa-nvcc-") as temporary:
        folder = Path(temporary)
        (folder / "kernel.cu").write_text(source, encoding="utf-8")
        command = [nvcc.path, *_FLAGS, *_code_flags(architectures), f"-I{runtime_folder()}"]
        command += ["-fatbin", "-o", "kernel.fatbin", "kernel.cu"]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            msg = f"{nvcc.path} cannot be run: {err}"
            raise BuildError(msg) from err
        if done.returncode != 0:
            lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            msg = f"nvcc {nvcc.version} refuses the kernel of {name}: {' '.join(lines[:5])}"
            hint = "toolkits drop old GPUs: does it know 'toolchain.gpu_architectures' ("
            raise BuildError(msg, hint=f"{hint}{', '.join(architectures)})?")
        return (folder / "kernel.fatbin").read_bytes()


def _code_flags(architectures: Sequence[str]) -> list[str]:
    numbers = [architecture.removeprefix("sm_") for architecture in architectures]
    flags = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    # PTX of an architecture with a letter ("90a") serves no later one.
    last = numbers[-1].rstrip("af")
    flags.append(f"-gencode=arch=compute_{last},code=compute_{last}")
    return flags
