"""Depthwise convolution and the pointwise one behind it on a GPU, without the map between them.

Algorithm
    A workgroup computes all output channels of a tile of pixels. In turns, its threads compute the
    depthwise convolution of the tile for some input channels into shared memory, and add what these
    contribute to the sums, which each thread holds in registers: `rows` pixels x `columns` vectors
    of 4 output channels.
What it saves and costs
    The map between is neither written nor read. But one workgroup has all output channels of its
    pixels, so that there are fewer of them than two launches have. Whether that pays depends on the
    GPU and on the layer: a network has this kernel where tuning found it to be faster than both.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import GpuMachine, register
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import Separable
from ofa_compile.kernels import emit
from ofa_compile.kernels import gpu_emit as gpu
from ofa_compile.kernels.gpu_windows import depthwise_sums

# (height, width) of a workgroup's pixels, and how many of these a thread has: of those that fit its
# registers the largest two, since fewer read the weights more often.
TILES = ((8, 8), (4, 8), (4, 4), (2, 4))
ROWS = (8, 4, 2, 1)
CHOICES = 2
# Accumulators of 4 lanes, as in `gpu_product`.
MAX_SUMS = 16
# Outputs of one row that a thread computes of the depthwise convolution: they share pixels.
WIDTH = 4
# Elements of 16 bytes in half of the least shared memory, so that two workgroups fit.
MAX_SHARED = 512


@register
class GpuSeparableKernel:
    """Serves every depthwise convolution with a pointwise one behind it."""

    kind = Separable.kind
    family = "gpu"

    def configs(self, w: Separable, machine: GpuMachine):
        """Tiles, the largest that fills the machine first."""
        chosen = []
        for height, width in TILES:
            found = (_config(w, height, width, rows) for rows in ROWS)
            chosen += [config for config in found if config is not None][:CHOICES]
        filled = [c for c in chosen if _threads(w, c) >= machine.wanted_threads]
        rest = sorted((c for c in chosen if c not in filled), key=lambda c: -_threads(w, c))
        return [*filled, *rest]

    def num_tiles(self, w: Separable, config, machine: GpuMachine) -> int:
        """One tile per workgroup."""
        return math.prod(_grid(w, config))

    def pack(self, w: Separable, config, machine: GpuMachine, constants):
        """Windows to (rows, columns, channels), the product's weights transposed; biases as is."""
        window = constants["window"].reshape(w.channels, *w.kernel).transpose(1, 2, 0)
        weight = constants["weight"].reshape(w.out_channels, w.channels).T
        packed = (window, constants["window_bias"], weight, constants["bias"])
        return [np.ascontiguousarray(array) for array in packed]

    def build(self, w: Separable, config, machine: GpuMachine):
        """Generate the launch."""
        deep, wide = gpu.lanes_for(w.channels), gpu.lanes_for(w.out_channels)
        outputs = w.batch * w.out_height * w.out_width * w.out_channels
        arrays = {"x": gpu.Array(w.batch * w.height * w.width * w.channels, deep)}
        if w.has_residual:
            arrays["residual"] = gpu.Array(outputs, wide)
        arrays["window"] = gpu.Array(w.kernel[0] * w.kernel[1] * w.channels, deep)
        arrays["window_bias"] = gpu.Array(w.channels, deep)
        arrays["weight"] = gpu.Array(w.channels * w.out_channels, wide)
        arrays["bias"] = gpu.Array(w.out_channels, wide)
        arrays["y"] = gpu.Array(outputs, wide)
        names = list(arrays)
        threads = (config["x"], config["y"], 1)

        def body(*arguments):
            *buffers, block, thread = arguments
            held = dict(zip(names, buffers, strict=True))
            _Tile(w, config, held, block[0], thread, machine.value_type).emit()

        return gpu.define(arrays, _grid(w, config), threads, body, machine.value_type)


def _config(w: Separable, height: int, width: int, rows: int):
    """Fit threads to a tile; None where it would waste most of them, or registers."""
    pixels = height * width
    across = w.out_channels // gpu.lanes_for(w.out_channels)
    if height > 2 * w.out_height or width > 2 * w.out_width or rows >= pixels:
        return None
    y = pixels // rows
    columns = math.ceil(across * y / gpu.MAX_THREADS)
    if rows * columns > MAX_SUMS:
        return None
    x = math.ceil(across / columns)
    depth = min(w.channels // gpu.lanes_for(w.channels), MAX_SHARED // pixels)
    return {"height": height, "width": width, "rows": rows, "x": x, "y": y, "depth": depth}


def _tiles(w: Separable, config) -> tuple[int, int]:
    """Tiles of one image, down and across."""
    return math.ceil(w.out_height / config["height"]), math.ceil(w.out_width / config["width"])


def _grid(w: Separable, config) -> tuple[int, int, int]:
    return w.batch * math.prod(_tiles(w, config)), 1, 1


def _threads(w: Separable, config) -> int:
    return _grid(w, config)[0] * config["x"] * config["y"]


class _Tile:
    """What one thread does."""

    def __init__(self, w: Separable, config, buffers, block, thread, values: str) -> None:
        self.w, self.config, self.buffers, self.values = w, config, buffers, values
        self.thread = thread
        self.deep, self.wide = gpu.lanes_for(w.channels), gpu.lanes_for(w.out_channels)
        self.steps = w.channels // self.deep  # elements of a pixel of the map
        self.across = w.out_channels // self.wide  # elements of a pixel of the output
        self.columns = math.ceil(self.across / config["x"])
        down, over = _tiles(w, config)
        self.image = block // (down * over) if w.batch > 1 else 0
        self.top = block // over % down * config["height"]
        self.left = block % over * config["width"]
        self.has_all_columns = self.across % config["x"] == 0

    def emit(self) -> None:
        """Emit the thread: turns of both convolutions, then the epilogue."""
        config = self.config
        count = config["rows"] * self.columns
        sums = gpu.local(count, self.wide, self.values)
        for index in range(count):
            gpu.put(sums, index, emit.splat(0.0, self.wide, self.values))
        pixels = config["height"] * config["width"]
        between = gpu.shared(pixels * config["depth"], self.deep, self.values)
        with emit.serial(0, math.ceil(self.steps / config["depth"])) as turn:
            first = turn * config["depth"]
            self._convolve(between, first)
            gpu.barrier()
            self._multiply(sums, between, first)
            gpu.barrier()
        self._finish(sums)

    def _convolve(self, between, first) -> None:
        """Compute the depthwise convolution of the tile for `depth` elements of channels."""
        w, config = self.w, self.config
        depth, wide = config["depth"], config["width"] // WIDTH
        total = config["height"] * wide * depth
        size = config["x"] * config["y"]
        index = self.thread[1] * config["x"] + self.thread[0]
        last = math.ceil(w.out_width / WIDTH) * WIDTH - WIDTH
        with emit.serial(0, math.ceil(total / size)) as turn:
            item = turn * size + index

            def one(item=item) -> None:
                # Neighbours read neighbouring channels of the same pixel.
                step, place = item % depth, item // depth
                row, column = place // wide, place % wide * WIDTH
                # Beyond the map the last outputs are computed again; nothing stores them.
                y = tvm.tirx.min(self.top + row, w.out_height - 1)
                x = tvm.tirx.min(self.left + column, last)
                channel = tvm.tirx.min(first + step, self.steps - 1)
                sums = depthwise_sums(
                    w,
                    WIDTH,
                    (channel, x, y, self.image),
                    (self.buffers["x"], self.buffers["window"], self.buffers["window_bias"]),
                    self.values,
                )
                for t in range(WIDTH):
                    value = emit.activate(sums[t], w.activation, self.deep)
                    at = (row * config["width"] + column + t) * depth + step
                    gpu.put(between, at, value)

            gpu.when(None if total % size == 0 else item < total, one)

    def _multiply(self, sums, between, first) -> None:
        """Add what the channels in shared memory contribute."""
        rows, depth = self.config["rows"], self.config["depth"]
        columns = self._columns()
        if not self.has_all_columns:
            columns = [tvm.tirx.min(column, self.across - 1) for column in columns]
        weight, lanes = self.buffers["weight"], (self.deep, self.wide)
        inputs = gpu.local(rows, self.deep, self.values)
        stop = depth
        if self.steps % depth:
            stop = tvm.tirx.min(depth, self.steps - first)
        with emit.serial(0, stop) as step:
            for i in range(rows):
                gpu.put(inputs, i, between[(self.thread[1] * rows + i) * depth + step])
            start = (first + step) * self.deep * self.across, self.across
            gpu.add_tile(sums, inputs, rows, weight, start, columns, lanes, self.values)

    def _columns(self) -> list:
        # Neighbours in x take neighbouring columns, so that they read weights side by side.
        return [self.thread[0] + j * self.config["x"] for j in range(self.columns)]

    def _finish(self, sums) -> None:
        w, config = self.w, self.config
        bias, y = self.buffers["bias"], self.buffers["y"]
        residual = self.buffers.get("residual")
        for i in range(config["rows"]):
            pixel = self.thread[1] * config["rows"] + i
            row = self.top + pixel // config["width"]
            column = self.left + pixel % config["width"]
            start = ((self.image * w.out_height + row) * w.out_width + column) * self.across
            for j, channel in enumerate(self._columns()):

                def store(i=i, j=j, at=start + channel, channel=channel) -> None:
                    value = sums[i * self.columns + j] + bias[channel]
                    if residual is not None:
                        value = value + residual[at]
                    gpu.put(y, at, emit.activate(value, w.out_activation, self.wide))

                gpu.when(self._exists(row, column, channel), store)

    def _exists(self, row, column, channel):
        conditions = []
        if self.w.out_height % self.config["height"]:
            conditions.append(row < self.w.out_height)
        if self.w.out_width % self.config["width"]:
            conditions.append(column < self.w.out_width)
        if not self.has_all_columns:
            conditions.append(channel < self.across)
        return tvm.tirx.all(*conditions) if conditions else None
