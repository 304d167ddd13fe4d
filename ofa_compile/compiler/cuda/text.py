"""PrimFunc of one device kernel -> C++ for CUDA, in the words of `runtime/cuda_kernel.h`."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.gpu.source import KernelSource, SourceGenerator
from ofa_compile.errors import BuildError

# What every device accepts: CUDA Programming Guide, table of technical specifications.
MAX_GRID = (2**31 - 1, 65535, 65535)


def generate_cuda(function: Any, name: str) -> KernelSource:
    """Generate the kernel of a device function, under a C name.

    Raises
    ------
    BuildError
        If the function holds something that the text cannot express.
    """
    return _Generator(function, name).generate()


class _Generator(SourceGenerator):
    max_grid = MAX_GRID
    float_suffix = "f"

    def __init__(self, function: Any, name: str) -> None:
        super().__init__(function)
        self.name = name

    def declare_thread(self, name: str, kind: str, letter: str, extent: Any) -> None:
        self.line(f"int {name} = int({kind}.{letter});")

    def lane(self, text: str, index: int, dtype: str) -> str:
        # Halves lie in pairs, whose lanes are taken by functions.
        return super().lane(text, index, dtype) + ("_()" if dtype.startswith("float16") else "")

    def text(self) -> str:
        if self.scalars:
            msg = f"the kernel {self.name} takes scalars; a network's takes buffers"
            raise BuildError(msg)
        parameters = []
        for name in self.buffers:
            constant = "const " if self.access(name) == "read" else ""
            element = self.type_name(self.buffer_types[name])
            parameters.append(f"{constant}{element} *__restrict__ {name}")
        x, y, z = self.launch.threads
        words = "cuda_half.h" if "float16" in self.base_types else "cuda_kernel.h"
        lines = [
            f'#include "{words}"',
            f'extern "C" __global__ void __launch_bounds__({x * y * z})',
            f"{self.name}({', '.join(parameters)}) {{",
            *(f"  __shared__ {declaration}" for declaration in self.shared),
            *self.lines,
            "}",
        ]
        return "\n".join(lines) + "\n"
