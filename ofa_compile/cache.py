"""Content-addressed files shared by all runs: compiled objects, plans, calibrated subnets.

An entry is written beside its place and renamed into it, so that readers see a whole file or
none, whoever else writes at the same time. The least recently used entries go when it is full.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.errors import UserInputError

DEFAULT_MAX_BYTES = 2 * 1024**3
# Pruning looks at every entry, so only one write in so many triggers it.
_WRITES_BETWEEN_PRUNES = 64
_TEMPORARY = ".new-"
# Keys are SHA-256 digests.
_ENTRY = re.compile(r"[0-9a-f]{64}")


def default_root() -> Path:
    """`OFA_COMPILE_CACHE`, else the XDG cache folder."""
    chosen = os.environ.get("OFA_COMPILE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ofa-compile"


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds."""

    root: Path
    num_entries: int
    num_bytes: int
    max_bytes: int


class Cache:
    """A bounded store of files by namespace and key."""

    def __init__(self, root: Path | None = None, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.root = root or default_root()
        self.max_bytes = max_bytes
        self._writes = 0

    def _path(self, namespace: str, key: str) -> Path:
        return self.root / namespace / key[:2] / key

    def get(self, namespace: str, key: str) -> Path | None:
        """Return the entry's file and mark it as used, or None."""
        path = self._path(namespace, key)
        try:
            # A machine that crashed can leave an empty file; no entry is empty.
            if path.stat().st_size == 0:
                return None
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a cache that is only readable still serves
            os.utime(path)
        return path

    def put(self, namespace: str, key: str, data: bytes) -> Path:
        """Store an entry; an equal key is replaced by equal content.

        Raises
        ------
        UserInputError
            If the cache folder cannot be written.
        """
        path = self._path(namespace, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                Path(temporary).replace(path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as err:
            msg = f"cannot write to the cache folder {self.root}: {err.strerror}"
            raise UserInputError(msg, hint="set OFA_COMPILE_CACHE to a writable folder") from err
        self._writes += 1
        if self._writes % _WRITES_BETWEEN_PRUNES == 0:
            self.prune()
        return path

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return (last use, size, file) of each entry, and of files that a killed writer left.

        Whatever else lies in the folder is not ours: someone may have pointed us at their home.
        """
        found = []
        for path in self.root.glob("*/??/*"):
            if _ENTRY.fullmatch(path.name) or path.name.startswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    status = path.stat()
                    if stat.S_ISREG(status.st_mode):
                        found.append((status.st_mtime, status.st_size, path))
        return found

    def prune(self) -> int:
        """Delete least recently used entries until the rest fits; return how many went."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        removed = 0
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            with contextlib.suppress(OSError):  # another user's: leave it
                path.unlink(missing_ok=True)
                total -= size
                removed += 1
        return removed

    def info(self) -> CacheInfo:
        """Count what is stored."""
        entries = self._entries()
        size = sum(size for _, size, _ in entries)
        return CacheInfo(self.root, len(entries), size, self.max_bytes)

    def clear(self) -> CacheInfo:
        """Delete every entry and the folders that this empties; returns what was there."""
        entries = self._entries()
        for _, _, path in entries:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                path.parent.rmdir()
                path.parent.parent.rmdir()
        size = sum(size for _, size, _ in entries)
        return CacheInfo(self.root, len(entries), size, self.max_bytes)


def digest(*parts: str | bytes) -> str:
    """SHA-256 hex digest of several parts, each with its length, so that none runs into another."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


@functools.cache
def source_digest(*packages: str) -> str:
    """Hash the Python sources of packages, found without importing them.

    What is cached depends on the code that made it; hashing that code is quick, importing it
    (torch, TVM) is not.
    """
    parts: list[str | bytes] = []
    for package in packages:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(folder).glob("*.py")):
                parts += [path.name, path.read_bytes()]
    return digest(*parts)
