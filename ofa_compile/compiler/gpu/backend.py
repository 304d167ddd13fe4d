"""What differs between GPU targets: the language of kernels, and who compiles it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ofa_compile.compiler.gpu.source import KernelSource
    from ofa_compile.hardware.target_spec import TargetSpec


@dataclass(frozen=True)
class Toolkit:
    """What compiles kernels: all that decides, beside their source, which machine code comes out.

    Attributes
    ----------
    version
        Of the compiler.
    architectures
        Those of the machine code, as people read them; empty where it serves every device.
    driver_version
        The interface that a driver must know, as drivers count it; 0 where that does not matter.
    """

    version: str
    architectures: str = ""
    driver_version: int = 0


class Backend(Protocol):
    """One way to turn lowered TIR into machine code."""

    def toolkit(self) -> Toolkit:
        """Return what compiles.

        Raises
        ------
        MissingDependencyError
            If the compiler is not installed.
        """

    def generate(self, function: Any, name: str) -> KernelSource:
        """Return the text of a lowered kernel."""

    def compile(self, source: str, name: str) -> bytes:
        """Compile a kernel; safe to call from several threads.

        Raises
        ------
        BuildError
            If the compiler refuses it; the message holds what it printed.
        """


def backend_of(target: TargetSpec) -> Backend:
    """Return the backend of a GPU target."""
    return make_backend(target.kind, target.toolchain.gpu_architectures)


def make_backend(kind: str, architectures: Sequence[str]) -> Backend:
    """Return the backend for a kind of GPU target ("vulkan", "cuda") and, if any, architectures."""
    if kind == "vulkan":
        from ofa_compile.compiler.vulkan.backend import VulkanBackend

        return VulkanBackend()
    from ofa_compile.compiler.cuda.backend import CudaBackend

    return CudaBackend(architectures)
