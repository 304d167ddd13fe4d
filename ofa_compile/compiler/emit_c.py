"""Plan -> `network.c` and `weights.bin`: what the run time links against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ofa_compile.compiler.fetch_schedule import schedule_fetches
from ofa_compile.compiler.plan import ALIGNMENT, Plan, Ref, Step, place_buffers
from ofa_compile.compiler.workload import GlobalPool, Pointwise

# A claim of tiles costs two atomic operations (about 50 ns with a second core watching); this
# many multiply-accumulates take a few microseconds on any core we target.
_MACS_PER_CLAIM = 100_000
# Moving one value costs about as much as this many multiply-accumulates.
_MACS_PER_VALUE = 8

_HEAD = """\
/* Generated. Calls the kernels of one network in order. */
#include "ofa_embed.h"
#include "ofa_network.h"

OFA_EMBED(ofa_weights, "weights.bin", "{alignment}");
extern const unsigned char ofa_weights[] __attribute__((visibility("hidden")));
static const unsigned char *weights = ofa_weights;

#define ARENA(offset) ((void *)(arena + (offset)))
#define WEIGHTS(offset) ((const void *)(weights + (offset)))

"""

_TAIL = """\
static const ofa_step STEPS[] = {{
{steps}
}};

const ofa_network OFA_NETWORK = {{
    .version = "{version}",
    .input_shape = {{{input_shape}}},
    .output_shape = {{{output_shape}}},
    .arena_bytes = {arena_bytes}u,
    .output_offset = {output_offset}u,
    .num_steps = {num_steps},
    .steps = STEPS,
    .weights = &weights,
    .weights_bytes = {weights_bytes}u,
}};
"""


@dataclass(frozen=True)
class NetworkSource:
    """Generated text and data of one network."""

    c_source: str
    weights: bytes
    arena_bytes: int


def emit_network(plan: Plan, symbols: Mapping[int, str], version: str) -> NetworkSource:
    """Generate the C file and the weights blob.

    Parameters
    ----------
    plan
        The steps.
    symbols
        Step number -> C symbol of its kernel.
    version
        Text that the library reports about itself.
    """
    offsets, arena_bytes = place_buffers(plan)
    constant_offsets, weights = join_constants(plan)
    fetches = schedule_fetches(plan, constant_offsets, len(weights))

    def address(ref: Ref) -> str:
        if ref.space == "input":
            return "input"
        if ref.space == "buffer":
            return f"ARENA({offsets[ref.index]})"
        return f"WEIGHTS({constant_offsets[ref.index]})"

    declared = {}
    functions, table = [], []
    for number, step in enumerate(plan.steps):
        symbol = symbols[number]
        pointers = ["const void *"] * len(step.arguments) + ["void *"]
        types = [*pointers, "int32_t", "int32_t"]
        arguments = [address(ref) for ref in (*step.arguments, step.output)] + ["begin", "end"]
        if step.fetch_steps:
            types += ["const void *", "int32_t"]
            arguments += [f"WEIGHTS({fetches[number].start})", str(fetches[number].stride)]
        declared[symbol] = f"void {symbol}({', '.join(types)});\n"
        call = f"{symbol}({', '.join(arguments)})"
        functions.append(_STEP.format(number=number, call=call))
        table.append(f"    {{step_{number}, {step.num_tiles}, {grain(step)}}},")
    text = _HEAD.format(alignment=ALIGNMENT)
    text += "".join(declared[symbol] for symbol in sorted(declared)) + "\n"
    text += "\n".join(functions) + "\n"
    text += _TAIL.format(
        steps="\n".join(table),
        version=version,
        input_shape=", ".join(map(str, plan.input_shape)),
        output_shape=", ".join(map(str, plan.output_shape)),
        arena_bytes=arena_bytes,
        output_offset=offsets[plan.output.index],
        num_steps=len(plan.steps),
        weights_bytes=len(weights),
    )
    return NetworkSource(text, weights, arena_bytes)


_STEP = """\
static void step_{number}(const float *input, unsigned char *arena, int32_t begin, int32_t end) {{
    (void)input, (void)arena;
    {call};
}}
"""


def _values_moved(step: Step) -> int:
    """Values that a step reads or writes, whichever are more; the weights of one row weigh most."""
    work = step.workload
    if isinstance(work, Pointwise):
        return max(work.in_channels * work.out_channels, step.num_values)
    if isinstance(work, GlobalPool):
        return work.batch * work.positions * work.channels
    return step.num_values


def grain(step: Step) -> int:
    """Tiles one thread takes at a time: enough work to be worth a claim."""
    work = max(step.workload.macs, _MACS_PER_VALUE * _values_moved(step))
    per_tile = max(1, work // step.num_tiles)
    return min(step.num_tiles, max(1, -(-_MACS_PER_CLAIM // per_tile)))


def join_constants(plan: Plan, alignment: int = ALIGNMENT) -> tuple[list[int], bytes]:
    """Lay constants one after the other, each aligned; equal ones share their place."""
    places: dict[bytes, int] = {}
    offsets, chunks, position = [], [], 0
    for constant in plan.constants:
        data = constant.astype(constant.dtype.newbyteorder("<")).tobytes()
        if data not in places:
            places[data] = position
            padding = -len(data) % alignment
            chunks.append(data + b"\0" * padding)
            position += len(data) + padding
        offsets.append(places[data])
    return offsets, b"".join(chunks) or b"\0" * alignment
