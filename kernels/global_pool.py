"""Global average pooling, channels-last: the mean over all positions, per channel.

Algorithm
    A tile is one image and up to `VECTORS` vectors of channels; positions are added one after the
    other into `VECTORS` independent accumulators, so that the additions' latency is hidden. Sums
    are float32 whatever the map is: those of halves would overflow, and round.
"""

from __future__ import annotations

import math

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.workload import GlobalPool
from ofa_compile.kernels import emit

# Four chains of dependent additions cover a latency of 3-4 cycles on all cores we know.
VECTORS = 4
# Positions per loop step: loop control then costs little beside a load and an addition.
UNROLL = 4


@register
class GlobalPoolKernel:
    """Serves every global average pool."""

    kind = GlobalPool.kind

    def configs(self, workload: GlobalPool, machine: VectorMachine):
        """One way only."""
        return [{"vectors": VECTORS}]

    def num_tiles(self, workload: GlobalPool, config, machine: VectorMachine) -> int:
        """One tile per (image, channel block)."""
        width = config["vectors"] * machine.lanes
        return workload.batch * math.ceil(workload.channels / width)

    def pack(self, workload, config, machine, constants):
        """Nothing to pack."""
        return []

    def build(self, workload: GlobalPool, config, machine: VectorMachine):
        """Generate the reduction."""
        w = workload
        width = config["vectors"] * machine.lanes
        blocks = math.ceil(w.channels / width)
        rest = w.channels % width

        def body(x, y, begin, end):
            with emit.tiles(begin, end) as tile:
                image, block = tile // blocks, tile % blocks

                def with_width(size: int) -> None:
                    _emit_mean(w, emit.split_lanes(size, machine.lanes), image, block * width, x, y)

                if not rest:
                    with_width(width)
                elif blocks == 1:
                    with_width(rest)
                else:
                    emit.branch(
                        block < blocks - 1, lambda: with_width(width), lambda: with_width(rest)
                    )

        sizes = {"x": w.batch * w.positions * w.channels, "y": w.batch * w.channels}
        return emit.define(sizes, body, machine.value_type)


def _emit_mean(w: GlobalPool, pieces, image, channel, x, y) -> None:
    sums = emit.local(sum(lanes for _, lanes in pieces))
    for offset, lanes in pieces:
        emit.store(sums, offset, emit.splat(0.0, lanes), lanes)

    def add(position) -> None:
        start = (image * w.positions + position) * w.channels + channel
        for offset, lanes in pieces:
            value = emit.cast(emit.load(x, start + offset, lanes), "float32", lanes)
            emit.store(sums, offset, emit.load(sums, offset, lanes) + value, lanes)

    whole = w.positions // UNROLL
    with emit.serial(0, whole) as group:
        for index in range(UNROLL):
            add(group * UNROLL + index)
    for position in range(whole * UNROLL, w.positions):
        add(position)
    for offset, lanes in pieces:
        mean = emit.load(sums, offset, lanes) * emit.splat(1.0 / w.positions, lanes)
        mean = emit.cast(mean, str(y.dtype), lanes)
        emit.store(y, image * w.channels + channel + offset, mean, lanes)
