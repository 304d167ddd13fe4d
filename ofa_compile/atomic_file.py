"""Write files so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside a file to write to; it takes the file's place when the block ends.

    If the block raises, it is removed and the file stays as it was.
    """
    writer = f"{os.getpid()}-{threading.get_ident():x}"
    staging = path.with_name(f".{path.name}.{writer}.tmp")
    try:
        yield staging
        staging.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            staging.unlink(missing_ok=True)
        raise
