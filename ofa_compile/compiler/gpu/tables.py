"""Plan for a GPU -> `network.c` and `weights.bin`: what a launcher links against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ofa_compile.compiler.emit_c import NetworkSource, join_constants
from ofa_compile.compiler.gpu.backend import Toolkit
from ofa_compile.compiler.gpu.objects import HEAD_BYTES
from ofa_compile.compiler.link import object_name
from ofa_compile.compiler.plan import Plan, Ref, Step, place_buffers
from ofa_compile.compiler.workload import Generic
from ofa_compile.errors import BuildError

# The most that a Vulkan device may ask for (minStorageBufferOffsetAlignment); CUDA reads vectors
# of 16 bytes.
ALIGNMENT = 256
_FLOAT_BYTES = 4

_HEAD = """\
/* Generated. One network as tables for a GPU's launcher. */
#include "ofa_embed.h"
#include "ofa_network.h"
#include "gpu_network.h"

OFA_EMBED(ofa_weights, "weights.bin", "16");
extern const unsigned char ofa_weights[] __attribute__((visibility("hidden")));
"""

_TAIL = """\

static const gpu_kernel KERNELS[] = {{
{kernels}
}};

{arguments}

static const gpu_step STEPS[] = {{
{steps}
}};

const gpu_network OFA_GPU_NETWORK = {{
    .weights = ofa_weights,
    .weights_bytes = {weights_bytes}u,
    .input_offset = {input_offset}u,
    .num_kernels = {num_kernels},
    .needs_halves = {needs_halves},
    .built_for = "{built_for}",
    .built_with = {built_with},
    .kernels = KERNELS,
    .steps = STEPS,
}};

const ofa_network OFA_NETWORK = {{
    .version = "{version}",
    .input_shape = {{{input_shape}}},
    .output_shape = {{{output_shape}}},
    .arena_bytes = {arena_bytes}u,
    .output_offset = {output_offset}u,
    .num_steps = {num_steps},
}};
"""


def places_apart(plan: Plan) -> tuple[list[int], int]:
    """Give every buffer a place of its own, so that all values outlive the run.

    Returns
    -------
    Offsets in bytes by buffer, and the size of all of them.
    """
    offsets, position = [], 0
    for num_bytes in plan.buffer_bytes:
        offsets.append(position)
        position += -(-num_bytes // ALIGNMENT) * ALIGNMENT
    return offsets, position


def emit_tables(
    plan: Plan,
    kernels: Mapping[str, Path],
    keys: list[str],
    version: str,
    toolkit: Toolkit,
    *,
    is_apart: bool = False,
    needs_halves: bool = False,
) -> NetworkSource:
    """Generate the C file and the weights blob.

    Parameters
    ----------
    plan
        The steps.
    kernels
        Key -> object file of every distinct kernel.
    keys
        Key of every step's kernel.
    version
        Text that the library reports about itself.
    toolkit
        What compiled the kernels.
    is_apart
        Every buffer has a place of its own (`places_apart`), and every step waits for the one
        before it, so that steps can be looked at and timed one by one.
    needs_halves
        Kernels compute in float16, which not every device can.

    Raises
    ------
    BuildError
        If the network needs more than 4 GiB.
    """
    tables = _Tables(plan, is_apart=is_apart)
    numbers = {key: number for number, key in enumerate(kernels)}
    text, rows = _HEAD, []
    for key, path in kernels.items():
        symbol = f"ofa_kernel_{numbers[key]}"
        text += f'OFA_EMBED({symbol}, "{object_name(path)}", "16");\n'
        text += f"extern const gpu_kernel_head {symbol}[] "
        text += '__attribute__((visibility("hidden")));\n'
        rows.append(f"    {{{symbol}, {path.stat().st_size - HEAD_BYTES}}},")
    steps = [
        f"    {{{numbers[key]}, {int(waits)}, ARGUMENTS_{number}}},"
        for number, (key, waits) in enumerate(zip(keys, tables.waits(), strict=True))
    ]
    arguments = [
        f"static const gpu_argument ARGUMENTS_{number}[] = {{{tables.arguments(step)}}};"
        for number, step in enumerate(plan.steps)
    ]
    text += _TAIL.format(
        kernels="\n".join(rows),
        arguments="\n".join(arguments),
        steps="\n".join(steps),
        weights_bytes=len(tables.weights),
        input_offset=tables.input_offset,
        num_kernels=len(kernels),
        needs_halves=int(needs_halves),
        built_for=toolkit.architectures,
        built_with=toolkit.driver_version,
        version=version,
        input_shape=", ".join(map(str, plan.input_shape)),
        output_shape=", ".join(map(str, plan.output_shape)),
        arena_bytes=tables.arena_bytes,
        output_offset=tables.span(plan.output)[0],
        num_steps=len(plan.steps),
    )
    return NetworkSource(text, tables.weights, tables.arena_bytes)


class _Tables:
    """Where everything lies."""

    def __init__(self, plan: Plan, *, is_apart: bool) -> None:
        self.plan, self.is_apart = plan, is_apart
        placed = places_apart(plan) if is_apart else place_buffers(plan, ALIGNMENT, 0)
        self.offsets, self.input_offset = placed
        self.input_offset = -(-self.input_offset // ALIGNMENT) * ALIGNMENT
        self.input_bytes = math.prod(plan.input_shape) * _FLOAT_BYTES
        # Behind all other buffers: a copy writes it while nothing else runs.
        self.arena_bytes = self.input_offset + self.input_bytes
        self.constant_offsets, self.weights = join_constants(plan, ALIGNMENT)
        if max(self.arena_bytes, len(self.weights)) >= 2**32:
            msg = f"the network needs {self.arena_bytes + len(self.weights)} bytes on the device"
            raise BuildError(msg, hint="4 GiB each of weights and of maps is the most")

    def span(self, ref: Ref) -> tuple[int, int]:
        """Return offset and size of what an argument refers to."""
        if ref.space == "input":
            return self.input_offset, self.input_bytes
        if ref.space == "buffer":
            return self.offsets[ref.index], self.plan.buffer_bytes[ref.index]
        return self.constant_offsets[ref.index], self.plan.constants[ref.index].nbytes

    def arguments(self, step: Step) -> str:
        """Spell the table of a step's arguments."""
        rows = []
        for ref in (*step.arguments, step.output):
            offset, num_bytes = self.span(ref)
            rows.append(f"{{{int(ref.space == 'constant')}, {offset}, {num_bytes}}}")
        return ", ".join(rows)

    def waits(self) -> list[bool]:
        """Say which steps must wait for those before them.

        A step waits if it reads what a step since the last wait wrote, or writes where one read
        or wrote. A launch of an operator without a kernel of ours may write any of its buffers.
        """
        if self.is_apart:
            return [True] * len(self.plan.steps)
        waits = []
        read: list[tuple[int, int]] = []
        written: list[tuple[int, int]] = []
        for step in self.plan.steps:
            sources = [self.span(ref) for ref in step.arguments if ref.space != "constant"]
            targets = [self.span(step.output)] if step.output.space != "constant" else []
            if isinstance(step.workload, Generic):
                targets += sources
            must_wait = any(_overlap(s, w) for s in sources for w in written)
            must_wait |= any(_overlap(t, other) for t in targets for other in (*read, *written))
            if must_wait:
                read, written = [], []
            waits.append(must_wait)
            read += sources
            written += targets
        return waits


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]
