"""What a fat binary holds, as its own headers say.

Its layout is read off files of CUDA 11 to 13: a header of 16 bytes, and then entries, each with a
header that tells its own size and that of the code behind it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = bytes.fromhex("50ed55ba")
_HEADER = struct.Struct("<4sHHQ")  # magic, version, its size, bytes of all entries
_ENTRY = struct.Struct("<HHIQIIHHI")  # kind, ..., header's size, code's size, ..., architecture
_KINDS = {1: "PTX", 2: "machine code"}
_ELF, _MACHINE, _FLAGS = b"\x7fELF", 18, 48
_CUDA_MACHINE = 190


@dataclass(frozen=True)
class Entry:
    """One piece of code.

    Attributes
    ----------
    kind
        "PTX" or "machine code".
    architecture
        90 for sm_90 or compute_90.
    code
        As it lies there, perhaps compressed.
    """

    kind: str
    architecture: int
    code: bytes

    @property
    def machine_architecture(self) -> int | None:
        """What the code itself says that it is for; None of PTX and of what is compressed."""
        if not self.code.startswith(_ELF):
            return None
        (machine,) = struct.unpack_from("<H", self.code, _MACHINE)
        (flags,) = struct.unpack_from("<I", self.code, _FLAGS)
        assert machine == _CUDA_MACHINE
        return flags >> 8 & 0xFF


def read_fat_binary(data: bytes) -> list[Entry]:
    """Return the entries of one that begins at the beginning; what follows it is passed over."""
    magic, version, position, size = _HEADER.unpack_from(data)
    assert (magic, version) == (MAGIC, 1)
    end, entries = position + size, []
    while position < end:
        kind, _, header, length, *_, architecture = _ENTRY.unpack_from(data, position)
        code = data[position + header : position + header + length]
        entries.append(Entry(_KINDS[kind], architecture, code))
        position += header + length
    assert position == end
    return entries


def find_fat_binaries(data: bytes) -> list[list[Entry]]:
    """Return those anywhere in a file."""
    found, start = [], data.find(MAGIC)
    while start >= 0:
        found.append(read_fat_binary(data[start:]))
        start = data.find(MAGIC, start + 1)
    return found
