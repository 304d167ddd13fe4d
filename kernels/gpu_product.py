"""Pointwise convolution and dense layer on a GPU: one register-tiled matrix product.

Algorithm
    A thread computes `rows` positions x `columns` vectors of 4 output channels in registers. It
    reads the map as vectors of 4 input channels, which its neighbours in x read as well (one
    broadcast), and the weights as (in_channels, out_channels) rows, which they read side by side.
    Where that gives too few threads to fill a GPU, `slices` threads share the input channels of
    one tile and add up their parts through shared memory.
Tensor cores
    Products of halves or TF32 on NVIDIA's GPUs are those of `gpu_matrix` where the channels allow.
Squeeze-excite
    A gated product multiplies the map by its gate as it reads it: scaling costs no pass of its own.
"""

from __future__ import annotations

import math

import numpy as np

from ofa_compile.compiler.kernel_registry import GpuMachine, register
from ofa_compile.compiler.tvm_api import tvm
from ofa_compile.compiler.workload import GatedPointwise, Pointwise
from ofa_compile.kernels import emit
from ofa_compile.kernels import gpu_emit as gpu
from ofa_compile.kernels.gpu_matrix import is_matrix, matrix_configs, matrix_source, pack_matrix

# (rows, columns) of a thread's tile, largest first: 16 accumulators of 4 lanes leave room for the
# operands in the 64 vector registers a thread has at half occupancy on common GPUs.
TILES = ((8, 2), (8, 1), (4, 1), (2, 1), (1, 1))
MAX_SLICES = 16
# Fewer steps than this in a slice cost more in the final sum than they save.
MIN_STEPS = 4


def _column_lanes(w: Pointwise) -> int:
    return gpu.lanes_for(w.out_channels)


def _tiles(w: Pointwise, rows: int, columns: int) -> int:
    width = columns * _column_lanes(w)
    return math.ceil(w.rows / rows) * math.ceil(w.out_channels / width)


class _Product:
    """Both products; `gate` says whether the map is scaled on the way in."""

    family = "gpu"

    def configs(self, w: Pointwise, machine: GpuMachine):
        """Tiles, the largest that fills the machine first."""
        chosen = []
        for rows, columns in TILES:
            if rows > max(1, w.rows) or columns * gpu.LANES > max(gpu.LANES, w.out_channels):
                continue
            chosen.append(self._config(w, rows, columns, machine))
        filled = [c for c in chosen if self._threads(w, c) >= machine.wanted_threads]
        rest = sorted((c for c in chosen if c not in filled), key=lambda c: -self._threads(w, c))
        return [*matrix_configs(w, machine), *filled, *rest]

    def _threads(self, w: Pointwise, config) -> int:
        return _tiles(w, config["rows"], config["columns"]) * config["slices"]

    def _config(self, w: Pointwise, rows: int, columns: int, machine: GpuMachine):
        tiles = _tiles(w, rows, columns)
        steps = math.ceil(w.in_channels / gpu.lanes_for(w.in_channels))
        slices = 1
        while (
            slices < MAX_SLICES
            and tiles * slices < machine.wanted_threads
            and steps >= 2 * slices * MIN_STEPS
        ):
            slices *= 2
        across = math.ceil(w.out_channels / (columns * _column_lanes(w)))
        # Parts of 16 bytes each in 16 KiB of shared memory, and 128 threads.
        most = (
            min(gpu.MAX_THREADS // slices, 1024 // (rows * columns * slices)) if slices > 1 else 64
        )
        x = min(16, 2 ** math.ceil(math.log2(across)), most)
        y = max(1, min(most // x, 2 ** math.ceil(math.log2(math.ceil(w.rows / rows)))))
        return {"rows": rows, "columns": columns, "x": x, "y": y, "slices": slices}

    def num_tiles(self, w: Pointwise, config, machine: GpuMachine) -> int:
        """One tile per thread and slice."""
        return 1 if is_matrix(config) else self._threads(w, config)

    def pack(self, w: Pointwise, config, machine: GpuMachine, constants):
        """Weights (out_channels, in_channels) transposed; bias as it is."""
        if is_matrix(config):
            return pack_matrix(w, machine, constants)
        weight = constants["weight"].reshape(w.out_channels, w.in_channels)
        return [np.ascontiguousarray(weight.T), constants["bias"]]

    def build(self, w: Pointwise, config, machine: GpuMachine):
        """Generate the launch."""
        if is_matrix(config):
            return matrix_source(w, config, machine)
        depth, wide = gpu.lanes_for(w.in_channels), _column_lanes(w)
        arrays = {"x": gpu.Array(w.rows * w.in_channels, depth)}
        if w.has_residual:
            arrays["residual"] = gpu.Array(w.rows * w.out_channels, wide)
        if isinstance(w, GatedPointwise):
            arrays["gate"] = gpu.Array(w.batch * w.in_channels, depth)
        arrays["weight"] = gpu.Array(w.in_channels * w.out_channels, wide)
        arrays["bias"] = gpu.Array(w.out_channels, wide)
        arrays["y"] = gpu.Array(w.rows * w.out_channels, wide)
        names = list(arrays)
        threads = (config["x"], config["y"], config["slices"])
        # Rows in x, where a grid may be long: a large batch has more than 65,535 tiles.
        grid = (
            math.ceil(w.rows / (config["rows"] * config["y"])),
            math.ceil(w.out_channels / (wide * config["columns"] * config["x"])),
            1,
        )

        def body(*arguments):
            *buffers, block, thread = arguments
            held = dict(zip(names, buffers, strict=True))
            _Tile(w, config, held, block, thread, machine.value_type).emit()

        return gpu.define(arrays, grid, threads, body, machine.value_type)


@register
class GpuPointwiseKernel(_Product):
    """Serves every pointwise workload with constant weights."""

    kind = Pointwise.kind

    def configs(self, w: Pointwise, machine: GpuMachine):
        """None for weights that are scaled at run time: a gated product does that better."""
        return [] if w.has_dynamic_weights else super().configs(w, machine)


@register
class GpuGatedPointwiseKernel(_Product):
    """Serves a product whose input is scaled per channel."""

    kind = GatedPointwise.kind


class _Tile:
    """What one thread does."""

    def __init__(self, w: Pointwise, config, buffers, block, thread, values: str) -> None:
        self.w, self.config, self.buffers, self.values = w, config, buffers, values
        self.depth, self.wide = gpu.lanes_for(w.in_channels), _column_lanes(w)
        self.steps = w.in_channels // self.depth  # elements of a row of the map
        self.across = w.out_channels // self.wide  # elements of a row of the output
        self.rows, self.columns = config["rows"], config["columns"]
        self.thread = thread
        first_row = (block[0] * config["y"] + thread[1]) * self.rows
        first_column = block[1] * (config["x"] * self.columns) + thread[0]
        self.row = [first_row + i for i in range(self.rows)]
        # Neighbours in x take neighbouring columns, so that they read weights side by side.
        self.column = [first_column + j * config["x"] for j in range(self.columns)]
        self.has_all_rows = w.rows % (self.rows * config["y"]) == 0
        self.has_all_columns = self.across % (self.columns * config["x"]) == 0

    def emit(self) -> None:
        """Emit the thread: products, the sum over slices, the epilogue."""
        sums = gpu.local(self.rows * self.columns, self.wide, self.values)
        for index in range(self.rows * self.columns):
            gpu.put(sums, index, emit.splat(0.0, self.wide, self.values))
        self._multiply(sums)
        if self.config["slices"] == 1:
            self._finish(sums)
            return
        parts = self._share(sums)
        gpu.when(self.thread[2] == 0, lambda: self._add_up(sums, parts))

    def _multiply(self, sums) -> None:
        x, weight = self.buffers["x"], self.buffers["weight"]
        gate = self.buffers.get("gate")
        rows = self.row
        if not self.has_all_rows:
            rows = [tvm.tirx.min(row, self.w.rows - 1) for row in self.row]
        columns = self.column
        if not self.has_all_columns:
            columns = [tvm.tirx.min(column, self.across - 1) for column in self.column]
        inputs = gpu.local(self.rows, self.depth, self.values)
        with emit.serial(*self._range()) as step:
            for i, row in enumerate(rows):
                value = x[row * self.steps + step]
                if gate is not None:
                    value = value * gate[self._image(row) * self.steps + step]
                gpu.put(inputs, i, value)
            first = step * self.depth * self.across, self.across
            lanes = self.depth, self.wide
            gpu.add_tile(sums, inputs, self.rows, weight, first, columns, lanes, self.values)

    def _image(self, row):
        return 0 if self.w.batch == 1 else row // (self.w.rows // self.w.batch)

    def _range(self):
        """Return (first step, the one behind the last) of this thread's slice."""
        slices = self.config["slices"]
        if slices == 1:
            return 0, self.steps
        size = math.ceil(self.steps / slices)
        first = self.thread[2] * size
        if self.steps % slices == 0:
            return first, first + size
        return first, tvm.tirx.min(first + size, self.steps)

    def _share(self, sums):
        """Put this slice's parts where the first slice can read them."""
        config, count = self.config, self.rows * self.columns
        tiles = config["x"] * config["y"]
        parts = gpu.shared(count * tiles * config["slices"], self.wide, self.values)
        tile = self.thread[1] * config["x"] + self.thread[0]
        for index in range(count):
            gpu.put(parts, (self.thread[2] * count + index) * tiles + tile, sums[index])
        gpu.barrier()
        return parts

    def _add_up(self, sums, parts) -> None:
        config, count = self.config, self.rows * self.columns
        tiles = config["x"] * config["y"]
        tile = self.thread[1] * config["x"] + self.thread[0]
        with emit.serial(1, config["slices"]) as part:
            for index in range(count):
                value = sums[index] + parts[(part * count + index) * tiles + tile]
                gpu.put(sums, index, value)
        self._finish(sums)

    def _finish(self, sums) -> None:
        bias, y = self.buffers["bias"], self.buffers["y"]
        residual = self.buffers.get("residual")
        for i, row in enumerate(self.row):
            for j, column in enumerate(self.column):

                def store(i=i, row=row, j=j, column=column) -> None:
                    at = row * self.across + column
                    value = sums[i * self.columns + j] + bias[column]
                    if residual is not None:
                        value = value + residual[at]
                    gpu.put(y, at, emit.activate(value, self.w.activation, self.wide))

                gpu.when(self._exists(row, column), store)

    def _exists(self, row, column):
        conditions = []
        if not self.has_all_rows:
            conditions.append(row < self.w.rows)
        if not self.has_all_columns:
            conditions.append(column < self.across)
        return tvm.tirx.all(*conditions) if conditions else None
