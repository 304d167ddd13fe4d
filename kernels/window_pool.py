"""Maximum and average pooling over windows, channels-last (ResNet's stem and shortcuts)."""

from __future__ import annotations

import math

from ofa_compile.compiler.kernel_registry import VectorMachine, register
from ofa_compile.compiler.tvm_api import const, tvm
from ofa_compile.compiler.workload import Pool
from ofa_compile.kernels import emit


@register
class WindowPoolKernel:
    """Serves window pools; bound by memory, so taps are plain loops."""

    kind = Pool.kind

    def configs(self, workload: Pool, machine: VectorMachine):
        """One way only."""
        return [{}]

    def pack(self, workload, config, machine, constants):
        """Nothing to pack."""
        return []

    def num_tiles(self, workload: Pool, config, machine: VectorMachine) -> int:
        """One tile per output row."""
        return workload.batch * workload.out_height

    def build(self, workload: Pool, config, machine: VectorMachine):
        """Generate the pool."""
        w = workload
        whole = w.channels // machine.lanes

        def body(x, y, begin, end):
            with emit.tiles(begin, end) as row, emit.serial(0, w.out_width) as column:
                with emit.serial(0, whole) as block:
                    _emit_window(w, row, column, block * machine.lanes, machine.lanes, x, y)
                done = whole * machine.lanes
                for offset, lanes in emit.split_lanes(w.channels - done, machine.lanes):
                    _emit_window(w, row, column, done + offset, lanes, x, y)

        sizes = {
            "x": w.batch * w.height * w.width * w.channels,
            "y": w.batch * w.out_height * w.out_width * w.channels,
        }
        return emit.define(sizes, body, machine.value_type)


def _emit_window(w: Pool, row, column, channel, lanes: int, x, y) -> None:
    image, out_row = row // w.out_height, row % w.out_height
    top = out_row * w.stride[0] - w.padding[0]
    left = column * w.stride[1] - w.padding[1]
    row_bounds = (tvm.tirx.max(0, -top), tvm.tirx.min(w.kernel[0], w.height - top))
    column_bounds = (tvm.tirx.max(0, -left), tvm.tirx.min(w.kernel[1], w.width - left))
    result = emit.local(lanes, "float32")
    start = -math.inf if w.reduction == "max" else 0.0
    emit.store(result, 0, emit.splat(start, lanes), lanes)
    with emit.serial(*row_bounds) as tap_row, emit.serial(*column_bounds) as tap:
        pixel = (image * w.height + top + tap_row) * w.width + left + tap
        value = emit.load(x, pixel * w.channels + channel, lanes)
        value = emit.cast(value, "float32", lanes)
        held = emit.load(result, 0, lanes)
        held = tvm.tirx.max(held, value) if w.reduction == "max" else held + value
        emit.store(result, 0, held, lanes)
    value = emit.load(result, 0, lanes)
    if w.reduction == "mean":
        value = value * emit.splat(_reciprocal(w, row_bounds, column_bounds), lanes)
    out = (row * w.out_width + column) * w.channels + channel
    emit.store(y, out, emit.cast(value, str(y.dtype), lanes), lanes)


def _reciprocal(w: Pool, row_bounds, column_bounds):
    """One over the number of averaged values: constant unless padding is left out of the count."""
    if w.count_padding or not any(w.padding):
        return 1.0 / (w.kernel[0] * w.kernel[1])
    count = (row_bounds[1] - row_bounds[0]) * (column_bounds[1] - column_bounds[0])
    return const(1.0, "float32") / count.astype("float32")
