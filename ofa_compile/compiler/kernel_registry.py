"""Which hand-written kernel serves which workload on which machine.

Modules of `kernels/` register themselves here; this file names none of them. A kernel is a
*generator*: Python loops unroll, `builder.serial` loops stay loops, so the TIR that comes out is
already scheduled and needs only lowering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ofa_compile.hardware.precision import (
    ByteProducts,
    ValueType,
    byte_products,
    byte_type,
    value_type,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ofa_compile.compiler.workload import Workload
    from ofa_compile.hardware.target_spec import TargetSpec

Config = Mapping[str, Any]
"""One alternative: named tile sizes, all integers; of an operator without a kernel, a `trace`."""


@dataclass(frozen=True)
class VectorMachine:
    """What a kernel needs to know of a core."""

    lanes: int
    """Values in one vector register."""
    registers: int
    """Vector registers the compiler may use."""
    has_lane_multiply: bool
    """Whether a multiply-add can take one lane of a vector as its scalar (NEON)."""
    byte_products: ByteProducts = "none"
    """The instructions that add products of four bytes at once into an int32."""
    value_type: ValueType = "float32"
    """Type of maps and weights that are not bytes, and of the sums of their products."""

    @property
    def value_bytes(self) -> int:
        """Size of a value."""
        return 2 if self.value_type == "float16" else 4

    @property
    def byte_type(self) -> str:
        """Type in which maps are stored as bytes: what the instructions multiply by int8."""
        return byte_type(self.byte_products)

    @classmethod
    def of(cls, target: TargetSpec) -> VectorMachine:
        """Read the machine off a hardware target."""
        values = value_type(target)
        return cls(
            lanes=max(1, target.core.vector_bits // (16 if values == "float16" else 32)),
            registers=target.core.vector_registers,
            has_lane_multiply=target.arch in ("aarch64", "armv7"),
            byte_products=byte_products(target),
            value_type=values,
        )


# A compute unit hides the latency of memory with a few threads per lane.
_THREADS_PER_LANE = 8


@dataclass(frozen=True)
class GpuMachine:
    """What a kernel needs to know of a GPU."""

    wanted_threads: int
    """Threads that keep it busy; tiles get smaller where a layer has fewer."""
    value_type: ValueType = "float32"
    """Type of maps and weights."""
    has_matrix_units: bool = False
    """Whether a warp multiplies matrices in one instruction (CUDA's tensor cores), of halves or of
    float32 that is rounded to ten bits."""

    @classmethod
    def of(cls, target: TargetSpec) -> GpuMachine:
        """Read the machine off a hardware target: its cores are compute units."""
        lanes = target.core.cores * max(1, target.core.vector_bits // 32)
        values = value_type(target)
        return cls(
            wanted_threads=lanes * _THREADS_PER_LANE,
            value_type=values,
            has_matrix_units=target.kind == "cuda" and target.precision in ("fp16", "tf32"),
        )


Machine = VectorMachine | GpuMachine


class Kernel(Protocol):
    """One hand-written implementation of a kind of workload.

    The PrimFunc of `build` takes one pointer for each input, packed constant and output,
    in that order, then the half-open range of tiles (`begin`, `end`: int32) that this call
    computes. Tiles are independent, so threads split the range. A GPU's kernel (`family` "gpu",
    `machine` a `GpuMachine`) is one launch instead: its extents are constants, and it takes no
    range.

    A kernel whose inner loop can fetch data for later steps from memory on the way also has
    `fetch_steps(workload, config, machine)`, the number of such inner steps of all tiles, and
    takes `fetches=True` in `build`: two more parameters follow then, a pointer `coming` and
    `stride` (int32), and inner step number i fetches the line at `coming[i * stride]`.
    """

    kind: str

    def configs(self, workload: Any, machine: Any) -> Sequence[Config]:
        """Alternatives worth measuring, the default first; empty when it does not apply."""

    def num_tiles(self, workload: Any, config: Config, machine: Any) -> int:
        """Independent pieces of work."""

    def pack(
        self,
        workload: Any,
        config: Config,
        machine: Any,
        constants: Mapping[str, NDArray[np.float32]],
    ) -> list[NDArray[np.float32]]:
        """Arrange weights (and bias) as the kernel reads them."""

    def build(self, workload: Any, config: Config, machine: Any) -> Any:
        """Generate the PrimFunc."""


_KERNELS: dict[tuple[str, str], Kernel] = {}

K = TypeVar("K", bound=Kernel)


def register(kernel: type[K]) -> type[K]:
    """Class decorator: make an instance of `kernel` serve its kind of workload."""
    _KERNELS[getattr(kernel, "family", "cpu"), kernel.kind] = kernel()
    return kernel


def find_kernel(workload: Workload, family: str = "cpu") -> Kernel | None:
    """Return the kernel that serves `workload` on CPUs or GPUs ("cpu", "gpu"), or None."""
    import ofa_compile.kernels  # noqa: F401  (its modules register themselves)

    return _KERNELS.get((family, workload.kind))


def count_fetch_steps(kernel: Kernel, workload: Workload, config: Config, machine: Machine) -> int:
    """Return at how many inner steps a kernel can fetch a line; mostly none."""
    count = getattr(kernel, "fetch_steps", None)
    return 0 if count is None else int(count(workload, config, machine))
