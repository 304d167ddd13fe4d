"""Objects of GPU kernels: machine code with a head before it that the launchers read."""

from __future__ import annotations

import struct

from ofa_compile.compiler.gpu.source import KernelSource

# `gpu_kernel_head` in runtime/gpu_network.h: arguments, grid, threads, nothing, name.
_HEAD = struct.Struct("<8I32s")
HEAD_BYTES = _HEAD.size


def pack_object(kernel: KernelSource, name: str, code: bytes) -> bytes:
    """Put the launcher's facts before the machine code."""
    assert kernel.grid is not None
    assert len(name) < 32
    facts = (len(kernel.bindings), *kernel.grid, *kernel.threads, 0)
    return _HEAD.pack(*facts, name.encode()) + code


def code_of(data: bytes) -> bytes:
    """Return the machine code of an object."""
    return data[HEAD_BYTES:]
