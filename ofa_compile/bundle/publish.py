"""Put a finished folder in place of an older one in a single step.

A run writes into a hidden sibling, `.NAME.staging-...`, which then changes places with NAME
(renameat2 with RENAME_EXCHANGE). Whenever the run is killed, NAME is the old bundle or the new one,
complete. The writer holds a lock on its staging folder; the kernel drops it when the process ends,
however it ends, and the next run removes staging folders that nobody holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import logging
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ofa_compile.bundle.manifest import BUNDLE_FILES, FORMAT, MANIFEST_NAME
from ofa_compile.errors import UserInputError

logger = logging.getLogger(__name__)

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_SYS_RENAMEAT2 = {"x86_64": 316, "aarch64": 276, "riscv64": 276}
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
# The staging name must fit the file system's limit (255 bytes) with room for its suffix.
_MAX_STEM_BYTES = 180


def resolve_output(output: Path) -> Path:
    """Check that a bundle may be published at `output`, and return its real path.

    Raises
    ------
    UserInputError
        If something is there that is no bundle, or a bundle with other files added to it: nothing
        of the user's is ever deleted.
    """
    try:
        # Unlike Path.resolve, realpath leaves a loop of links to the checks that follow.
        resolved = Path(os.path.realpath(output))
        _check_writable(output, resolved)
        if not resolved.exists():
            return resolved
        if not resolved.is_dir():
            msg = f"{output} is not a folder"
            raise UserInputError(msg, hint="choose a folder for the bundle")
        if resolved == Path.cwd():
            msg = f"{output} is the current folder, which cannot be replaced"
            raise UserInputError(msg, hint="choose a folder inside it")
        names = sorted(entry.name for entry in resolved.iterdir())
    except OSError as error:
        raise _unusable(output, error) from error
    others = [name for name in names if name not in BUNDLE_FILES]
    if names and (others or not _is_bundle(resolved)):
        shown = ", ".join((others or names)[:5])
        what = "a bundle with other files beside it" if _is_bundle(resolved) else "no bundle"
        msg = f"{output} is {what} (it holds {shown}) and would be replaced"
        raise UserInputError(msg, hint="choose another folder, or move those files away")
    return resolved


def _check_writable(output: Path, resolved: Path) -> None:
    """Find out before the work, not after it, that nothing can be written there."""
    parent = next(folder for folder in resolved.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        msg = f"cannot write {output}: {parent} is not a writable folder"
        raise UserInputError(msg, hint="choose a folder on a disk that is writable and not full")


def _is_bundle(folder: Path) -> bool:
    try:
        document = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _unusable(output: Path, error: OSError) -> UserInputError:
    msg = f"cannot write {output}: {error.strerror}"
    return UserInputError(msg, hint="choose a folder on a disk that is writable and not full")


@contextlib.contextmanager
def staging_folder(output: Path) -> Iterator[Path]:
    """Make a folder beside `output` to fill and hand to `publish`; it is gone afterwards.

    Staging folders that killed runs left for the same output are removed.

    Raises
    ------
    UserInputError
        If the folder cannot be created, or the disk fills up while the body writes to it.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_staging(output)
        staging, lock = _create_staging(output)
    except OSError as error:
        raise _unusable(output, error) from error
    try:
        yield staging
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise _unusable(output, error) from error
        raise
    finally:
        _discard(staging, output)
        os.close(lock)


def _staging_stem(output: Path) -> str:
    name = os.fsencode(output.name)[:_MAX_STEM_BYTES]
    return f".{os.fsdecode(name)}.staging-"


def _create_staging(output: Path) -> tuple[Path, int]:
    """Make and lock a staging folder."""
    while True:
        name = f"{_staging_stem(output)}{os.getpid()}-{secrets.token_hex(4)}"
        staging = output.parent / name
        staging.mkdir()
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Another run may have taken it for stale before the lock; then start again.
        if _try_lock(descriptor) is not False and _is_same(staging, descriptor):
            return staging, descriptor
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool | None:
    """Lock without waiting: True, False if somebody holds it, None if locks do not work here."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_stale_staging(output: Path) -> int:
    """Remove staging folders of `output` whose run is gone; return how many."""
    stem = _staging_stem(output)
    removed = 0
    for path in sorted(output.parent.iterdir()):
        if not path.name.startswith(stem) or path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if _try_lock(descriptor) and _is_same(path, descriptor):
                    shutil.rmtree(path)
                    removed += 1
                    logger.info("removed %s, left by a run that was killed", path)
            finally:
                os.close(descriptor)
    return removed


def publish(staging: Path, output: Path) -> None:
    """Make a staging folder appear as `output`, atomically and durably.

    Parameters
    ----------
    staging
        From `staging_folder(output)`, filled.
    output
        What `resolve_output` returned. An older bundle there ends up in `staging`, which the end
        of `staging_folder` removes.

    Raises
    ------
    UserInputError
        If the file system cannot exchange folders, or refuses.
    """
    try:
        for path in (*sorted(staging.rglob("*")), staging):
            _sync(path)
        # Checked again: the user may have put files there while the compiler ran.
        if not resolve_output(output).exists():
            try:
                _renameat2(staging, output, _RENAME_NOREPLACE)
            except FileExistsError:
                _renameat2(staging, output, _RENAME_EXCHANGE)
        else:
            _renameat2(staging, output, _RENAME_EXCHANGE)
        _sync(output.parent)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            msg = f"the file system of {output} cannot replace a folder in one step"
            hint = "remove the old bundle yourself, or choose a folder on a local disk"
            raise UserInputError(msg, hint=hint) from error
        raise _unusable(output, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _renameat2(source: Path, target: Path, flags: int) -> None:
    """Call renameat2, which Python has no function for."""
    number = _SYS_RENAMEAT2.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    syscall.restype = ctypes.c_long
    result = syscall(
        ctypes.c_long(number),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(source),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(flags),
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _discard(staging: Path, output: Path) -> None:
    """Remove what is at the staging path: an unfinished folder, or the bundle replaced."""
    if not staging.exists():
        return
    if _is_bundle(staging) and any(p.name not in BUNDLE_FILES for p in staging.iterdir()):
        # Somebody wrote into the old bundle between the last check and the exchange.
        kept = output.with_name(f"{output.name}.previous-{secrets.token_hex(4)}")
        staging.rename(kept)
        logger.warning("the old bundle held other files: it is kept as %s", kept)
        return
    shutil.rmtree(staging, ignore_errors=True)
