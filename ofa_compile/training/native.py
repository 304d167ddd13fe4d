"""Compile and load the C sources of our torch operators, once per machine.

Imports no torch, so that compiling can begin before torch, which takes as long to import, is there.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from importlib.resources import files
from pathlib import Path

_LOGGER = logging.getLogger(__name__)
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-std=gnu11", "-fPIC", "-shared", "-fopenmp")
# What comes first in the translation unit of a source.
_BEFORE = {
    "torch_batch_norm": ("torch_moments",),
    "torch_block": ("torch_moments", "torch_planes"),
    "torch_depthwise": ("torch_planes",),
}
_LOADING = threading.Lock()


def _cache_folder() -> Path:
    """Return the folder for compiled operators: OFA_COMPILE_CACHE, else the XDG cache."""
    chosen = os.environ.get("OFA_COMPILE_CACHE")
    if chosen:
        return Path(chosen) / "torch-operators"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ofa-compile" / "torch-operators"


def _processor() -> str:
    """Return a text that changes with the instruction set, which -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _flags(processor: str) -> tuple[str, ...]:
    """Return the compiler's options; GCC picks half-width vectors unless told otherwise."""
    return (*_FLAGS, "-mprefer-vector-width=512") if "avx512f" in processor else _FLAGS


def compile_source(name: str, source: bytes) -> Path:
    """Compile C `source` unless the cache folder has it.

    Parameters
    ----------
    name
        Stem of the library's file name.
    source
        The C code.

    Returns
    -------
    Path of the shared library.

    Raises
    ------
    OSError
        If there is no compiler or it fails.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        message = "no C compiler (cc or gcc) on PATH"
        raise OSError(message)
    processor = _processor()
    flags = _flags(processor)
    key = hashlib.sha256(source)
    key.update(" ".join((compiler, platform.machine(), processor, *flags)).encode())
    library = _cache_folder() / f"{name}-{key.hexdigest()[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        code = Path(scratch) / f"{name}.c"
        code.write_bytes(source)
        built = Path(scratch) / library.name
        command = [compiler, *flags, "-o", str(built), str(code), "-lm"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            message = f"{' '.join(command)} failed: {run.stderr.strip()[-400:]}"
            raise OSError(message)
        built.replace(library)
    return library


@functools.cache
def load_library(name: str) -> ctypes.CDLL | None:
    """Return the compiled ``runtime/<name>.c``, or None (logged once) where it cannot be had."""
    try:
        folder = files("ofa_compile.runtime")
        parts = (*_BEFORE.get(name, ()), name)
        source = b"".join((folder / f"{part}.c").read_bytes() for part in parts)
        with _LOADING:  # one that is being compiled ahead is waited for
            return ctypes.CDLL(str(compile_source(name, source)))
    except OSError as err:
        _LOGGER.warning(
            "%s is not available, training uses torch's slower operators: %s", name, err
        )
        return None


def compile_ahead(name: str) -> None:
    """Begin to compile a source that will be needed soon, in the background."""
    threading.Thread(target=load_library, args=(name,), name="compile-ahead").start()


def check_status(name: str, code: int) -> None:
    """Raise RuntimeError when a kernel reports anything but success."""
    if code != 0:
        message = f"{name} returned {code}"
        raise RuntimeError(message)
