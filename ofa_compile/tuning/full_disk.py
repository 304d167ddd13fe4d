"""A full disk ends tuning: it is no candidate's fault, and must not be recorded as one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ofa_compile.errors import TuningError


def check_disk(message: str) -> None:
    """Raise if a failure's message says that the disk is full.

    Raises
    ------
    TuningError
        If it does.
    """
    if os.strerror(errno.ENOSPC) in message:
        msg = f"candidates cannot be built: {message}"
        raise TuningError(msg, hint=f"free space in {tempfile.gettempdir()}")


@contextmanager
def disk_checked() -> Iterator[None]:
    """Turn an OSError of a full disk into a TuningError; others pass."""
    try:
        yield
    except OSError as error:
        check_disk(str(error))
        raise
