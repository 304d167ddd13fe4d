"""Compile C sources of the run time into one file for a board, through the cache."""

from __future__ import annotations

import importlib.resources
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ofa_compile.cache import Cache, digest
from ofa_compile.errors import BuildError
from ofa_compile.hardware.toolchain import Toolchain

_FLAGS = ("-std=c11", "-O2", "-Wl,--build-id=none", "-Wl,-s")
_TIMEOUT_S = 900  # ziglang builds its C library on first use


def build_c(
    toolchain: Toolchain,
    command: Sequence[str],
    flags: Sequence[str],
    sources: Sequence[str],
    cache: Cache,
) -> bytes:
    """Compile and link sources of `runtime/`.

    Parameters
    ----------
    toolchain
        For its name and version.
    command
        Its driver for what is built: `command` or `static_command`.
    flags
        Compiler flags besides the common ones.
    sources
        Names of the C files.
    cache
        Where the result is kept.

    Raises
    ------
    BuildError
        If the compiler fails; the message holds what it printed.
    """
    folder = Path(str(importlib.resources.files("ofa_compile.runtime")))
    texts = [(folder / name).read_bytes() for name in sources]
    headers = [path.read_bytes() for path in sorted(folder.glob("*.h"))]
    flags = (*_FLAGS, *flags)
    key = digest("board", toolchain.version(), *command, *flags, *sources, *texts, *headers)
    cached = cache.get("runtime", key)
    if cached is not None:
        return cached.read_bytes()
    with tempfile.TemporaryDirectory(prefix="ofa-compile-") as temporary:
        output = Path(temporary) / "output"
        paths = [str(folder / name) for name in sources]
        try:
            subprocess.run(
                [*command, *flags, *paths, "-o", str(output)],
                check=True,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.SubprocessError) as err:
            printed = str(getattr(err, "stderr", "") or err).strip()[-1000:]
            msg = f"{toolchain.name} cannot build {sources[0]} and what belongs to it: {printed}"
            raise BuildError(msg) from err
        data = output.read_bytes()
    cache.put("runtime", key, data)
    return data
