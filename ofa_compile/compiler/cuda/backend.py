"""Kernels for CUDA: C++, compiled by nvcc to machine code of several architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ofa_compile.compiler.cuda.nvcc import compile_cuda, find_nvcc
from ofa_compile.compiler.cuda.text import generate_cuda
from ofa_compile.compiler.gpu.backend import Toolkit
from ofa_compile.compiler.gpu.source import KernelSource


class CudaBackend:
    """Serves the GPUs of a list of architectures, such as "sm_86"."""

    def __init__(self, architectures: Sequence[str]) -> None:
        self.architectures = tuple(architectures)

    def toolkit(self) -> Toolkit:
        """Return nvcc's version and the architectures."""
        nvcc = find_nvcc()
        return Toolkit(
            f"nvcc {nvcc.version} ({nvcc.build})",
            ", ".join(self.architectures),
            nvcc.driver_version,
        )

    def generate(self, function: Any, name: str) -> KernelSource:
        """Return the C++ of a lowered kernel."""
        return generate_cuda(function, name)

    def compile(self, source: str, name: str) -> bytes:
        """Return a fat binary."""
        return compile_cuda(source, name, self.architectures)
