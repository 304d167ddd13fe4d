"""The daemon for boards: one static executable that serves TVM RPC and needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from ofa_compile.atomic_file import replacing
from ofa_compile.cache import Cache
from ofa_compile.errors import UserInputError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.remote.c_build import build_c

_SOURCES = (
    "device_main.c",
    "device_options.c",
    "device_session.c",
    "device_tracker.c",
    "device_wire.c",
    "board_process.c",
    "board_facts.c",
)


def build_daemon(target: TargetSpec, output: Path, cache: Cache | None = None) -> int:
    """Build the daemon for a target and write it; return its size in bytes.

    Parameters
    ----------
    target
        A Linux target with a C compiler.
    output
        The file; an older one is replaced in one step.
    cache
        The default one if None.

    Raises
    ------
    MissingDependencyError
        If there is no compiler for the target.
    BuildError
        If the compiler fails.
    UserInputError
        If the file cannot be written, or the target's platform starts no programs.
    """
    if target.platform.is_hosted:
        msg = f"'{target.name}' runs inside an engine ({target.platform.name}), which has no daemon"
        raise UserInputError(msg, hint=f"ofa-compile targets probe {target.name} asks it directly")
    toolchain = find_linker(target)
    data = build_c(toolchain, toolchain.static_command, (), _SOURCES, cache or Cache())
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing(output) as staging:  # a running daemon keeps the old file
            staging.write_bytes(data)
            staging.chmod(0o755)
    except OSError as error:
        msg = f"cannot write {output}: {error.strerror}"
        raise UserInputError(msg) from error
    return len(data)
