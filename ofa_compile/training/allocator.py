"""Keep the C library's memory between training steps, on huge pages.

Every step frees and allocates the same gigabyte of activations. By default glibc maps large blocks
anew each time, and each page of 4 kB costs a fault: on a CPU that took over a third of a step.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import platform
import sys
from pathlib import Path

__all__ = ["keep_memory"]

_LOGGER = logging.getLogger(__name__)

# Names of mallopt(3) and madvise(2), from the headers of glibc and Linux.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MADV_HUGEPAGE = 14
_HUGE_PAGE = 2 << 20
_RESERVE_BYTES = (2 << 30) - 1  # address space only: a page is used when it is written
_FIRST_BLOCK_BYTES = 64 << 20  # larger than any free block, so that the heap grows now


@functools.cache
def keep_memory() -> bool:
    """Make malloc serve large blocks from one growing heap on huge pages, for this process.

    Does nothing where the C library is not glibc on Linux.

    Returns
    -------
    Whether the heap was advised to use huge pages.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, _RESERVE_BYTES)
    libc.mallopt(_M_TOP_PAD, _RESERVE_BYTES)
    libc.free(libc.malloc(_FIRST_BLOCK_BYTES))
    start, end = _heap()
    start = -(-start // _HUGE_PAGE) * _HUGE_PAGE
    if end - start < _HUGE_PAGE or libc.madvise(start, end - start, _MADV_HUGEPAGE) != 0:
        _LOGGER.info("training memory stays on small pages")
        return False
    return True


def _heap() -> tuple[int, int]:
    """Return first and last address of the process's heap; (0, 0) if it has none."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith("[heap]"):
            first, _, last = line.split(maxsplit=1)[0].partition("-")
            return int(first, 16), int(last, 16)
    return 0, 0
