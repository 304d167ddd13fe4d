"""Depthwise and dense convolutions with windows on a GPU.

Algorithm
    A thread computes `width` neighbouring outputs of one row for one vector of 4 channels in
    registers. A row of the window that lies outside the map is skipped; columns outside read the
    nearest pixel and count as zero, so that no thread branches inside a row.
Depthwise
    The pixels of a row are read once for all outputs of the tile, the weights lie as
    (row, column, channel).
Dense
    An implicit matrix product: for every row of the window and every vector of 4 input channels
    the pixels are read once, the weights as (row, column, in_channel, out_channel).
Tensor cores
    Dense windows of halves or TF32 on NVIDIA's GPUs are those of `gpu_matrix` where the channels
    allow.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import GpuMachine, register
from ofa_compile.compiler.workload import Convolution, Depthwise
from ofa_compile.kernels import emit
from ofa_compile.kernels import gpu_emit as gpu
from ofa_compile.kernels.gpu_matrix import is_matrix, matrix_configs, matrix_source, pack_matrix

WIDTHS = (8, 4, 2, 1)
# Registers for the pixels of a row: wide tiles of wide windows spill.
MAX_PIXELS = 16


def _pixels(w, width: int) -> list[int]:
    """Offsets in a row, from the tile's first pixel, that the tile reads."""
    return sorted({t * w.stride[1] + k for t in range(width) for k in range(w.kernel[1])})


class _Windowed:
    """What both share: tiles along a row."""

    family = "gpu"

    def channels(self, w) -> int:
        """Output channels."""
        raise AssertionError

    def _threads(self, w, width: int) -> int:
        tiles = math.ceil(w.out_width / width)
        channels = self.channels(w)
        return w.batch * w.out_height * tiles * (channels // gpu.lanes_for(channels))

    def configs(self, w, machine: GpuMachine):
        """Widths, the largest that fills the machine first."""
        widths = [
            n for n in WIDTHS if n <= w.out_width and (n == 1 or len(_pixels(w, n)) <= MAX_PIXELS)
        ]
        filled = [n for n in widths if self._threads(w, n) >= machine.wanted_threads]
        rest = [n for n in reversed(widths) if n not in filled]
        return [{"width": n} for n in filled + rest]

    def num_tiles(self, w, config, machine: GpuMachine) -> int:
        """One tile per thread."""
        return self._threads(w, config["width"])

    def decode(self, w, config, index):
        """Split a thread's index into (channel element, tile's first column, row, image)."""
        channels = self.channels(w)
        across = channels // gpu.lanes_for(channels)
        tiles = math.ceil(w.out_width / config["width"])
        column = (index // across) % tiles * config["width"]
        row = index // (across * tiles) % w.out_height
        image = index // (across * tiles * w.out_height) if w.batch > 1 else 0
        return index % across, column, row, image


def _row_of_window(w, row):
    """Return (position of the window's first row, its lowest and highest value)."""
    low = -w.padding[0]
    return row * w.stride[0] - w.padding[0], low, (w.out_height - 1) * w.stride[0] + low


def _with_row(w, top, tap, body) -> None:
    """Emit `body(row)` where a row of the window lies inside the map."""
    _, low, high = _row_of_window(w, 0)
    position = top + tap
    gpu.when(gpu.inside(position, w.height, low, high + w.kernel[0] - 1), lambda: body(position))


def _read_pixels(w, width: int, column, address, buffer, lanes: int):
    """Read the pixels of one row into registers; returns (registers, offset -> register)."""
    offsets = _pixels(w, width)
    held = gpu.local(len(offsets), lanes, emit.type_of(buffer[0]))
    left = column * w.stride[1] - w.padding[1]
    last = math.ceil(w.out_width / width) * width - width
    for number, offset in enumerate(offsets):
        low = offset - w.padding[1]
        high = last * w.stride[1] + low
        condition = gpu.inside(left + offset, w.width, low, high)
        position = left + offset
        if condition is not None:
            position = gpu.clamp(position, w.width)
        gpu.put_or_zero(held, number, buffer[address(position)], condition, lanes)
    return held, {offset: number for number, offset in enumerate(offsets)}


def _store_tile(w, width: int, column, sums, store) -> None:
    """Emit `store(t, value)` for the outputs of a tile that exist."""
    for t in range(width):
        exists = None if w.out_width % width == 0 else column + t < w.out_width
        gpu.when(exists, lambda t=t: store(t, sums[t]))


def depthwise_sums(w, width: int, place, buffers, values: str):
    """Emit a depthwise convolution for one tile; return its registers, before the activation.

    `place` is what `_Windowed.decode` returns, `buffers` are the map, weights and bias.
    """
    channel, column, row, image = place
    x, weight, bias = buffers
    lanes = gpu.lanes_for(w.channels)
    across = w.channels // lanes
    top = _row_of_window(w, row)[0]
    sums = gpu.local(width, lanes, values)
    for t in range(width):
        gpu.put(sums, t, bias[channel])

    def one_row(tap, position) -> None:
        def address(pixel):
            return ((image * w.height + position) * w.width + pixel) * across + channel

        held, places = _read_pixels(w, width, column, address, x, lanes)
        for k in range(w.kernel[1]):
            factor = gpu.local(1, lanes, emit.type_of(weight[0]))
            gpu.put(factor, 0, weight[(tap * w.kernel[1] + k) * across + channel])
            for t in range(width):
                pixel = held[places[t * w.stride[1] + k]]
                gpu.put(sums, t, sums[t] + pixel * factor[0])

    with emit.serial(0, w.kernel[0]) as tap:
        _with_row(w, top, tap, lambda position: one_row(tap, position))
    return sums


@register
class GpuDepthwiseKernel(_Windowed):
    """Serves every depthwise convolution."""

    kind = Depthwise.kind

    def channels(self, w: Depthwise) -> int:
        """Output channels."""
        return w.channels

    def pack(self, w: Depthwise, config, machine: GpuMachine, constants):
        """Weights (channels, 1, rows, columns) to (rows, columns, channels); bias as it is."""
        weight = constants["weight"].reshape(w.channels, *w.kernel)
        return [np.ascontiguousarray(weight.transpose(1, 2, 0)), constants["bias"]]

    def build(self, w: Depthwise, config, machine: GpuMachine):
        """Generate the launch."""
        lanes, width = gpu.lanes_for(w.channels), config["width"]
        across = w.channels // lanes

        def body(x, weight, bias, y, index):
            place = channel, column, row, image = self.decode(w, config, index)
            sums = depthwise_sums(w, width, place, (x, weight, bias), machine.value_type)

            def store(t, value) -> None:
                pixel = (image * w.out_height + row) * w.out_width + column + t
                value = emit.activate(value, w.activation, lanes)
                gpu.put(y, pixel * across + channel, value)

            _store_tile(w, width, column, sums, store)

        arrays = {
            "x": gpu.Array(w.batch * w.height * w.width * w.channels, lanes),
            "weight": gpu.Array(w.kernel[0] * w.kernel[1] * w.channels, lanes),
            "bias": gpu.Array(w.channels, lanes),
            "y": gpu.Array(w.batch * w.out_height * w.out_width * w.channels, lanes),
        }
        return gpu.define_linear(arrays, self._threads(w, width), body, machine.value_type)


@register
class GpuConvolutionKernel(_Windowed):
    """Serves every dense convolution."""

    kind = Convolution.kind

    def channels(self, w: Convolution) -> int:
        """Output channels."""
        return w.out_channels

    def configs(self, w: Convolution, machine: GpuMachine):
        """Tiles for tensor cores, then widths."""
        return [*matrix_configs(w, machine), *super().configs(w, machine)]

    def num_tiles(self, w: Convolution, config, machine: GpuMachine) -> int:
        """One tile per thread."""
        return 1 if is_matrix(config) else super().num_tiles(w, config, machine)

    def pack(self, w: Convolution, config, machine: GpuMachine, constants):
        """Weights (out, in, rows, columns) to (rows, columns, in, out); bias as it is."""
        if is_matrix(config):
            return pack_matrix(w, machine, constants)
        weight = constants["weight"].transpose(2, 3, 1, 0)
        return [np.ascontiguousarray(weight), constants["bias"]]

    def build(self, w: Convolution, config, machine: GpuMachine):
        """Generate the launch."""
        if is_matrix(config):
            return matrix_source(w, config, machine)
        lanes = gpu.lanes_for(w.out_channels)
        depth = gpu.lanes_for(w.in_channels) if w.input_layout == "nhwc" else 1
        outputs = w.batch * w.out_height * w.out_width * w.out_channels
        arrays = {"x": gpu.Array(w.batch * w.height * w.width * w.in_channels, depth)}
        if w.has_residual:
            arrays["residual"] = gpu.Array(outputs, lanes)
        taps = w.kernel[0] * w.kernel[1]
        arrays["weight"] = gpu.Array(taps * w.in_channels * w.out_channels, lanes)
        arrays["bias"] = gpu.Array(w.out_channels, lanes)
        arrays["y"] = gpu.Array(outputs, lanes)

        def body(x, *rest):
            *residual, weight, bias, y, index = rest
            place = self.decode(w, config, index)
            sums = gpu.local(config["width"], lanes, machine.value_type)
            for t in range(config["width"]):
                gpu.put(sums, t, bias[place[0]])
            top = _row_of_window(w, place[2])[0]
            with emit.serial(0, w.kernel[0]) as tap:
                _with_row(
                    w,
                    top,
                    tap,
                    lambda position: _dense_row(w, config, tap, position, place, x, weight, sums),
                )
            _finish_dense(w, config, place, sums, residual, y)

        threads = self._threads(w, config["width"])
        return gpu.define_linear(arrays, threads, body, machine.value_type)


def _dense_row(w: Convolution, config, tap, position, place, x, weight, sums) -> None:
    """Add one row of the window, all input channels."""
    lanes = gpu.lanes_for(w.out_channels)
    depth = gpu.lanes_for(w.in_channels) if w.input_layout == "nhwc" else 1
    channel, column, _, image = place
    steps, across, width = w.in_channels // depth, w.out_channels // lanes, config["width"]
    with emit.serial(0, steps) as step:

        def address(pixel):
            if w.input_layout == "nchw":
                return ((image * w.in_channels + step) * w.height + position) * w.width + pixel
            return ((image * w.height + position) * w.width + pixel) * steps + step

        held, places = _read_pixels(w, width, column, address, x, depth)
        for k in range(w.kernel[1]):
            for lane in range(depth):
                factor = gpu.local(1, lanes, emit.type_of(weight[0]))
                source = (tap * w.kernel[1] + k) * w.in_channels + step * depth + lane
                gpu.put(factor, 0, weight[source * across + channel])
                for t in range(width):
                    pixel = gpu.element(held, places[t * w.stride[1] + k], lane, depth)
                    gpu.add_product(sums, t, pixel, factor[0], lanes)


def _finish_dense(w: Convolution, config, place, sums, residual, y) -> None:
    lanes = gpu.lanes_for(w.out_channels)
    channel, column, row, image = place

    def store(t, value) -> None:
        pixel = (image * w.out_height + row) * w.out_width + column + t
        at = pixel * (w.out_channels // lanes) + channel
        if residual:
            value = value + residual[0][at]
        gpu.put(y, at, emit.activate(value, w.activation, lanes))

    _store_tile(w, config["width"], column, sums, store)
