"""What the generated network executes: steps over buffers of one arena. Free of TVM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.workload import Workload

ALIGNMENT = 64
# A load whose address equals that of a store still in flight in its low 12 bits waits for it on
# current x86 cores (measured: a stem convolution took 3 to 6 times as long). Maps are often
# multiples of a page, so buffers get different offsets within a page.
_PAGE = 4096
_PAGE_STEP = 21 * ALIGNMENT


@dataclass(frozen=True)
class Ref:
    """Where an argument lives: the network's input, a buffer of the arena, or a constant."""

    space: Literal["input", "buffer", "constant"]
    index: int = 0


@dataclass(frozen=True)
class Step:
    """One kernel call: inputs, packed constants, scratch; then the output of `num_values`.

    With `fetch_steps` the kernel also fetches a line of other data at each of so many inner steps.
    An operator without a kernel of ours is several launches on a GPU, each a step with its number.
    """

    workload: Workload
    config: dict[str, Any]
    arguments: tuple[Ref, ...]
    output: Ref
    num_tiles: int
    num_values: int = 0
    fetch_steps: int = 0
    launch: int = 0


@dataclass
class Plan:
    """Straight-line program of one network for one kind of core."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    output: Ref = field(default_factory=lambda: Ref("buffer"))
    steps: list[Step] = field(default_factory=list)
    buffer_bytes: list[int] = field(default_factory=list)
    constants: list[NDArray[Any]] = field(default_factory=list)
    layers: dict[str, int] = field(default_factory=dict)
    """How many layers with weights there are in which precision; empty where all are in one."""

    def new_buffer(self, num_values: int, bytes_per_value: int = 4) -> Ref:
        """Reserve a buffer, of float32 unless told otherwise."""
        self.buffer_bytes.append(round_up(num_values * bytes_per_value))
        return Ref("buffer", len(self.buffer_bytes) - 1)

    def new_constant(self, data: Any) -> Ref:
        """Keep a constant, flattened: bytes and halves as they are, everything else as float32."""
        array = np.asarray(data)
        dtype = array.dtype if array.dtype.itemsize <= 2 else np.float32
        self.constants.append(np.ascontiguousarray(array, dtype).ravel())
        return Ref("constant", len(self.constants) - 1)


def round_up(num_bytes: int) -> int:
    """Round up to the arena's alignment."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def place_buffers(
    plan: Plan, page: int = _PAGE, page_step: int = _PAGE_STEP
) -> tuple[list[int], int]:
    """Give every buffer an offset so that buffers alive together do not overlap.

    Greedy by size, largest first, each at the lowest free offset (Pisarchyk and Lee, "Efficient
    memory management for deep neural net inference", 2020, section 5.2).

    Parameters
    ----------
    plan
        Steps and buffers.
    page, page_step
        Buffer i starts `i * page_step` bytes into a page; a step of 0 aligns all to pages.

    Returns
    -------
    Offsets in bytes by buffer index, and the size of the arena in bytes.
    """
    first, last = _lifetimes(plan)
    offsets: dict[int, int] = {}
    order = sorted(first, key=lambda index: (-plan.buffer_bytes[index], index))
    for index in order:
        rivals = sorted(
            (offsets[other], plan.buffer_bytes[other])
            for other in offsets
            if first[index] <= last[other] and first[other] <= last[index]
        )
        phase = index * page_step % page
        position = phase
        for start, size in rivals:
            if start - position >= plan.buffer_bytes[index]:
                break
            position = max(position, _next_with_phase(start + size, phase, page))
        offsets[index] = position
    arena = max((offsets[i] + plan.buffer_bytes[i] for i in offsets), default=0)
    return [offsets.get(i, 0) for i in range(len(plan.buffer_bytes))], arena


def buffer_phase(index: int) -> int:
    """Return where within a page the buffer of that index begins on a CPU."""
    return index * _PAGE_STEP % _PAGE


def _next_with_phase(position: int, phase: int, page: int) -> int:
    """Return the first offset from `position` on that lies at `phase` within a page."""
    return position + (phase - position) % page


def _lifetimes(plan: Plan) -> tuple[dict[int, int], dict[int, int]]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(plan.steps):
        for ref in (*step.arguments, step.output):
            if ref.space == "buffer":
                first.setdefault(ref.index, number)
                last[ref.index] = number
    last[plan.output.index] = len(plan.steps)
    return first, last
