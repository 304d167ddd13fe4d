"""The module that teaches a stock TVM RPC server to run programs, built for a board."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ofa_compile.cache import Cache
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.toolchain import find_linker_among
from ofa_compile.remote.c_build import build_c

GLUE_NAME = "ofa_board_glue.so"
_SOURCES = ("board_glue.c", "board_process.c", "board_facts.c")


def build_glue(
    linkers: Sequence[str],
    arch: str,
    target: str,
    flags: Sequence[str] = (),
    cache: Cache | None = None,
) -> bytes:
    """Compile the glue module for an architecture, or take it from the cache.

    Parameters
    ----------
    linkers, arch, target, flags
        What the hardware target says: compilers to look for, architecture, its name, and what
        every call of the compiler gets.
    cache
        The default one if None.

    Raises
    ------
    MissingDependencyError
        If there is no compiler for the target, or tvm_ffi is not installed.
    BuildError
        If the compiler fails.
    """
    toolchain = find_linker_among(linkers, arch, target, flags=flags)
    own_flags = ("-fPIC", "-fvisibility=hidden", "-shared", f"-I{ffi_headers()}")
    return build_c(toolchain, toolchain.command, own_flags, _SOURCES, cache or Cache())


def ffi_headers() -> Path:
    """Return the folder of tvm_ffi's C headers, without importing it."""
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or not spec.submodule_search_locations:
        msg = "the package apache-tvm-ffi is not installed; boards are reached through it"
        raise MissingDependencyError(msg, hint="pip install apache-tvm apache-tvm-ffi")
    return Path(spec.submodule_search_locations[0]) / "include"
