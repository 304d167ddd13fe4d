"""Everything on a GPU that moves maps without multiplying them: pools, sums, layouts.

All are bound by memory: one thread per vector of 4 values, except for the global pool, where the
threads of a workgroup share the positions of an image and add up in shared memory.
"""

from __future__ import annotations

import math

from ofa_compile.compiler.kernel_registry import GpuMachine, register
from ofa_compile.compiler.tvm_api import const, tvm
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    Cast,
    ChangeLayout,
    GlobalPool,
    Pool,
    ScaleChannels,
)
from ofa_compile.kernels import emit
from ofa_compile.kernels import gpu_emit as gpu

# Threads of a workgroup of the global pool: channel vectors x shares of the positions.
POOL_CHANNELS = 8
POOL_SHARES = 16


class _Map:
    """Kernels with nothing to pack and nothing to tune."""

    family = "gpu"

    def configs(self, w, machine: GpuMachine):
        """One way only."""
        return [{}]

    def pack(self, w, config, machine: GpuMachine, constants):
        """Nothing to pack."""
        return []

    def num_tiles(self, w, config, machine: GpuMachine) -> int:
        """Count a launch as one."""
        return 1


class _Flat(_Map):
    """Tensors of equal size, whatever their layout."""

    num_inputs = 1

    def build(self, w, config, machine: GpuMachine):
        """Generate the launch."""
        lanes = gpu.lanes_for(w.size)

        def body(*arguments):
            *inputs, y, index = arguments
            value = sum((x[index] for x in inputs[1:]), inputs[0][index])
            gpu.put(y, index, emit.activate(value, w.activation, lanes))

        names = [f"x{number}" for number in range(self.num_inputs)] + ["y"]
        arrays = dict.fromkeys(names, gpu.Array(w.size, lanes))
        return gpu.define_linear(arrays, w.size // lanes, body, machine.value_type)


@register
class GpuAddKernel(_Flat):
    """`y = activation(x0 + x1)`."""

    kind = Add.kind
    num_inputs = 2


@register
class GpuActivateKernel(_Flat):
    """`y = activation(x0)`."""

    kind = Activate.kind


@register
class GpuCastKernel(_Map):
    """Float32 to float16 or back."""

    kind = Cast.kind

    def build(self, w: Cast, config, machine: GpuMachine):
        """Generate the launch."""
        lanes = gpu.lanes_for(w.size)
        source = "float32" if w.destination == "float16" else "float16"

        def body(x, y, index):
            gpu.put(y, index, emit.cast(x[index], w.destination, lanes))

        arrays = {
            "x": gpu.Array(w.size, lanes, source),
            "y": gpu.Array(w.size, lanes, w.destination),
        }
        return gpu.define_linear(arrays, w.size // lanes, body)


@register
class GpuScaleChannelsKernel(_Map):
    """`y[b, p, c] = x[b, p, c] * scale[b, c]`."""

    kind = ScaleChannels.kind

    def build(self, w: ScaleChannels, config, machine: GpuMachine):
        """Generate the launch."""
        lanes = gpu.lanes_for(w.channels)
        across = w.channels // lanes
        size = w.batch * w.positions * w.channels

        def body(x, scale, y, index):
            image = index // (w.positions * across) if w.batch > 1 else 0
            gpu.put(y, index, x[index] * scale[image * across + index % across])

        arrays = {
            "x": gpu.Array(size, lanes),
            "scale": gpu.Array(w.batch * w.channels, lanes),
            "y": gpu.Array(size, lanes),
        }
        return gpu.define_linear(arrays, size // lanes, body, machine.value_type)


@register
class GpuChangeLayoutKernel(_Map):
    """Transpose between (batch, channels, positions) and (batch, positions, channels)."""

    kind = ChangeLayout.kind

    def build(self, w: ChangeLayout, config, machine: GpuMachine):
        """Generate the launch."""
        rows, columns = w.positions, w.channels
        if w.destination == "nchw":
            rows, columns = columns, rows
        size = w.batch * rows * columns

        def body(x, y, index):
            image, row = index // (rows * columns), index // columns % rows
            gpu.put(y, index, x[(image * columns + index % columns) * rows + row])

        return gpu.define_linear(
            {"x": gpu.Array(size), "y": gpu.Array(size)}, size, body, machine.value_type
        )


@register
class GpuGlobalPoolKernel(_Map):
    """Mean over all positions."""

    kind = GlobalPool.kind

    def build(self, w: GlobalPool, config, machine: GpuMachine):
        """Generate the launch."""
        lanes = gpu.lanes_for(w.channels)
        across = w.channels // lanes

        def body(x, y, block, thread):
            image, share = block[1], thread[1]
            channel = block[0] * POOL_CHANNELS + thread[0]
            has_all = across % POOL_CHANNELS == 0
            source = channel if has_all else tvm.tirx.min(channel, across - 1)
            total = gpu.local(1, lanes)  # float32 whatever the map is: it sums up all of it
            gpu.put(total, 0, emit.splat(0.0, lanes))
            with emit.serial(0, _share_size(w, share)) as step:
                position = share + step * POOL_SHARES
                at = (image * w.positions + position) * across + source
                gpu.put(total, 0, total[0] + emit.cast(x[at], "float32", lanes))
            parts = gpu.shared(POOL_CHANNELS * POOL_SHARES, lanes)
            gpu.put(parts, share * POOL_CHANNELS + thread[0], total[0])
            gpu.barrier()

            def finish() -> None:
                with emit.serial(1, POOL_SHARES) as part:
                    gpu.put(total, 0, total[0] + parts[part * POOL_CHANNELS + thread[0]])
                mean = total[0] * emit.splat(1.0 / w.positions, lanes)
                mean = emit.cast(mean, machine.value_type, lanes)
                gpu.put(y, image * across + channel, mean)

            is_first = share == 0
            gpu.when(is_first if has_all else tvm.tirx.all(is_first, channel < across), finish)

        arrays = {
            "x": gpu.Array(w.batch * w.positions * w.channels, lanes),
            "y": gpu.Array(w.batch * w.channels, lanes),
        }
        grid = (math.ceil(across / POOL_CHANNELS), w.batch, 1)
        return gpu.define(arrays, grid, (POOL_CHANNELS, POOL_SHARES, 1), body, machine.value_type)


def _share_size(w: GlobalPool, share):
    """Positions that a thread adds: every `POOL_SHARES`-th, starting with its number."""
    whole, rest = divmod(w.positions, POOL_SHARES)
    if rest == 0:
        return whole
    return tvm.tirx.Select(share < rest, const(whole + 1, "int32"), const(whole, "int32"))


@register
class GpuPoolKernel(_Map):
    """Maximum or average over windows."""

    kind = Pool.kind

    def build(self, w: Pool, config, machine: GpuMachine):
        """Generate the launch."""
        lanes = gpu.lanes_for(w.channels)
        across = w.channels // lanes

        def body(x, y, index):
            channel, pixel = index % across, index // across
            column = pixel % w.out_width
            row = pixel // w.out_width % w.out_height
            image = pixel // (w.out_width * w.out_height) if w.batch > 1 else 0
            top = row * w.stride[0] - w.padding[0]
            left = column * w.stride[1] - w.padding[1]
            rows = _taps(top, w.kernel[0], w.height)
            columns = _taps(left, w.kernel[1], w.width)
            values = machine.value_type
            result = gpu.local(1, lanes, values)
            start = -math.inf if w.reduction == "max" else 0.0
            gpu.put(result, 0, emit.splat(start, lanes, values))
            with emit.serial(*rows) as tap_row, emit.serial(*columns) as tap:
                source = (image * w.height + top + tap_row) * w.width + left + tap
                value, held = x[source * across + channel], result[0]
                is_max = w.reduction == "max"
                gpu.put(result, 0, tvm.tirx.max(held, value) if is_max else held + value)
            value = result[0]
            if w.reduction == "mean":
                value = value * emit.splat(_reciprocal(w, rows, columns, values), lanes, values)
            gpu.put(y, index, value)

        outputs = w.batch * w.out_height * w.out_width * w.channels
        arrays = {
            "x": gpu.Array(w.batch * w.height * w.width * w.channels, lanes),
            "y": gpu.Array(outputs, lanes),
        }
        return gpu.define_linear(arrays, outputs // lanes, body, machine.value_type)


def _taps(first, kernel: int, size: int):
    """Return the range of taps that lie inside the map."""
    return tvm.tirx.max(0, -first), tvm.tirx.min(kernel, size - first)


def _reciprocal(w: Pool, rows, columns, values: str):
    """One over the number of averaged values."""
    if w.count_padding or not any(w.padding):
        return 1.0 / (w.kernel[0] * w.kernel[1])
    count = (rows[1] - rows[0]) * (columns[1] - columns[0])
    return const(1.0, values) / count.astype(values)
