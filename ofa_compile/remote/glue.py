"""The module that teaches a stock TVM RPC server to run programs, built for a board."""

from __future__ import annotations

import importlib.resources
import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ofa_compile.cache import Cache, digest
from ofa_compile.errors import BuildError, MissingDependencyError
from ofa_compile.hardware.toolchain import find_linker_among

GLUE_NAME = "ofa_board_glue.so"
_SOURCES = ("board_glue.c", "board_process.c", "board_facts.c")
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-fvisibility=hidden", "-shared", "-Wl,--build-id=none")
_TIMEOUT_S = 900  # ziglang builds its C library on first use


def build_glue(linkers: Sequence[str], arch: str, target: str, cache: Cache | None = None) -> bytes:
    """Compile the glue module for an architecture, or take it from the cache.

    Parameters
    ----------
    linkers, arch, target
        What the hardware target says: compilers to look for, architecture, and its name.
    cache
        The default one if None.

    Raises
    ------
    MissingDependencyError
        If there is no compiler for the target, or tvm_ffi is not installed.
    BuildError
        If the compiler fails.
    """
    cache = cache or Cache()
    toolchain = find_linker_among(linkers, arch, target)
    sources = Path(str(importlib.resources.files("ofa_compile.runtime")))
    texts = [(sources / name).read_bytes() for name in (*_SOURCES, "board.h")]
    include = _ffi_headers()
    header = (include / "tvm" / "ffi" / "c_api.h").read_bytes()
    key = digest("board glue", toolchain.version(), *toolchain.command, *_FLAGS, header, *texts)
    cached = cache.get("runtime", key)
    if cached is not None:
        return cached.read_bytes()
    with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
        output = Path(folder) / GLUE_NAME
        paths = [str(sources / name) for name in _SOURCES]
        command = [*toolchain.command, *_FLAGS, f"-I{include}", *paths, "-o", str(output)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as err:
            printed = str(getattr(err, "stderr", "") or err).strip()[-1000:]
            msg = f"{toolchain.name} cannot build the board's glue module: {printed}"
            raise BuildError(msg) from err
        data = output.read_bytes()
    cache.put("runtime", key, data)
    return data


def _ffi_headers() -> Path:
    """Return the folder of tvm_ffi's C headers, without importing it."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package apache-tvm-ffi is not installed; boards are reached through it"
        raise MissingDependencyError(msg, hint="pip install apache-tvm apache-tvm-ffi")
    return Path(spec.submodule_search_locations[0]) / "include"
