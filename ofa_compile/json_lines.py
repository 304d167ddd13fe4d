"""Append-only files of one JSON document per line, which survive whatever kills their writers.

Lines are written with one `write` call under a file lock and synchronised to disk. A process killed
in the middle leaves at most a torn last line: readers pass over it, the next append cuts it off.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from ofa_compile.errors import ArtifactError


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines (without their line ends), all or none; they are on the disk on return.

    Raises
    ------
    ArtifactError
        If the file cannot be written; it then holds what it held before.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = _cut_torn_line(cast("IO[bytes]", file))
            try:
                if file.write(data) != len(data):
                    msg = "the disk took only part of the line"
                    raise OSError(msg)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
    except OSError as error:
        msg = f"cannot append to {path}: {error}"
        raise ArtifactError(msg, hint="check free space and permissions") from error


def read_lines(path: Path) -> tuple[list[str], bool]:
    """Return the complete lines, and whether a torn one follows; none if there is no file.

    Raises
    ------
    ArtifactError
        If the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], False
    except OSError as error:
        msg = f"cannot read {path}: {error}"
        raise ArtifactError(msg) from error
    end = content.rfind(b"\n") + 1
    return content[:end].decode("utf-8", errors="replace").splitlines(), end < len(content)


def _cut_torn_line(file: IO[bytes]) -> int:
    """Cut what a killed writer left after the last line end; return the file's new length."""
    end = file.seek(0, os.SEEK_END)
    if not end:
        return 0
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return end
    file.seek(0)
    keep = file.read(end).rfind(b"\n") + 1
    file.truncate(keep)
    file.seek(keep)
    return keep
