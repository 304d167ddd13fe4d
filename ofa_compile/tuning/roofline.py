"""The least time that a core's peaks allow a workload: an estimate, to rank and to stop by."""

from __future__ import annotations

from ofa_compile.compiler import workload as w
from ofa_compile.hardware.precision import byte_products, value_type
from ofa_compile.hardware.target_spec import TargetSpec

# Products of bytes that one instruction adds into each lane of 32 bits.
_BYTE_PRODUCTS = {"none": 1, "vnni": 4, "sdot": 4, "pmadd": 2, "smull": 2}
_ON_BYTES = (
    w.PointwiseInt8,
    w.DepthwiseInt8,
    w.GlobalPoolInt8,
    w.ScaleChannelsInt8,
    w.Quantise,
    w.Dequantise,
)
# A private second-level cache delivers about half a vector register per cycle, sustained.
_L2_VECTORS_PER_CYCLE = 0.5
# Dense workloads to see before the arithmetic peak is believed.
_MIN_FOR_PEAK = 8
# What a call of a kernel costs at least: loading its pointers, starting its loops.
_CYCLES_PER_CALL = 100.0


class Roofline:
    """Bounds from a core's arithmetic and its second-level cache.

    The clock in a target is often below what a core reaches, so it is raised by whatever has been
    measured.

    Parameters
    ----------
    target
        Facts of the core, and the precision.
    """

    def __init__(self, target: TargetSpec) -> None:
        core = target.core
        self._value_bytes = 2 if value_type(target) == "float16" else 4
        self._macs_per_cycle = core.fma_per_cycle * core.vector_bits / (8 * self._value_bytes)
        self._byte_products = _BYTE_PRODUCTS[byte_products(target)]
        self._bytes_per_cycle = _L2_VECTORS_PER_CYCLE * core.vector_bits / 8
        self._cycles_per_us = core.frequency_hz * 1e-6
        self._dense: set[w.Workload] = set()

    def learn(self, workload: w.Workload, time_us: float) -> None:
        """Take a measured time into account."""
        if isinstance(workload, w.Pointwise | w.PointwiseInt8):
            self._dense.add(workload)
            clock = workload.macs / time_us / self._macs_per_cycle / self._speed(workload)
            self._cycles_per_us = max(self._cycles_per_us, clock)

    @property
    def is_known(self) -> bool:
        """Whether enough was measured to stop by `share`."""
        return len(self._dense) >= _MIN_FOR_PEAK

    def time_us(self, workload: w.Workload) -> float:
        """Return the bound in microseconds."""
        arithmetic = real_macs(workload) / self._macs_per_cycle / self._speed(workload)
        traffic = self._num_bytes(workload) / self._bytes_per_cycle
        return (_CYCLES_PER_CALL + max(arithmetic, traffic)) / self._cycles_per_us

    def _speed(self, workload: w.Workload) -> int:
        """Return how many times the multiply-adds of floats a core does of this workload's."""
        return self._byte_products if isinstance(workload, _ON_BYTES) else 1

    def _num_bytes(self, workload: w.Workload) -> int:
        """Return the least traffic: what is float beside bytes is left out."""
        return num_values(workload) * (1 if isinstance(workload, _ON_BYTES) else self._value_bytes)

    def share(self, workload: w.Workload, time_us: float) -> float:
        """Return how close a measured time comes to the bound (1: it is reached)."""
        return self.time_us(workload) / time_us


def real_macs(workload: w.Workload) -> int:
    """Count multiply-accumulates without those of taps in the padding, which kernels leave out."""
    match workload:
        case w.Depthwise():
            return workload.batch * workload.channels * _taps_inside(workload)
        case w.Convolution():
            per_tap = workload.batch * workload.in_channels * workload.out_channels
            return per_tap * _taps_inside(workload)
        case w.Separable():
            return sum(real_macs(part) for part in workload.parts)
        case _:
            return workload.macs


def _taps_inside(window: w.Depthwise | w.Convolution) -> int:
    """Count the (output, tap) pairs of one channel that read the map."""
    sides = (
        (window.height, window.out_height, window.kernel[0], window.stride[0], window.padding[0]),
        (window.width, window.out_width, window.kernel[1], window.stride[1], window.padding[1]),
    )
    rows, columns = (
        sum(
            0 <= out * stride - padding + tap < size
            for out in range(out_size)
            for tap in range(kernel)
        )
        for size, out_size, kernel, stride, padding in sides
    )
    return rows * columns


def num_values(workload: w.Workload) -> int:
    """Count the values that a workload reads and writes, each once."""
    match workload:
        case w.Pointwise() | w.PointwiseInt8():
            outputs = workload.rows * workload.out_channels
            weights = workload.in_channels * workload.out_channels
            inputs = workload.rows * workload.in_channels
            return inputs + weights + outputs * (2 if workload.has_residual else 1)
        case w.Depthwise() | w.Pool():
            pixels = workload.height * workload.width + workload.out_height * workload.out_width
            return workload.batch * pixels * workload.channels
        case w.Convolution():
            inputs = workload.height * workload.width * workload.in_channels
            outputs = workload.out_height * workload.out_width * workload.out_channels
            weights = (
                workload.in_channels
                * workload.out_channels
                * workload.kernel[0]
                * workload.kernel[1]
            )
            return workload.batch * (inputs + outputs) + weights
        case w.Separable():
            first, second = workload.parts
            between = 2 * second.rows * workload.channels
            return num_values(first) + num_values(second) - between
        case w.GlobalPool():
            return workload.batch * (workload.positions + 1) * workload.channels
        case w.ScaleChannels() | w.ChangeLayout():
            return 2 * workload.batch * workload.positions * workload.channels
        case w.Add():
            return 3 * workload.size
        case w.Activate() | w.Cast():
            return 2 * workload.size
        case w.Quantise() | w.Dequantise():
            return 2 * workload.positions * workload.channels
        case w.ScaleWeights():
            return 2 * workload.in_channels * sum(workload.block_widths)
        case _:
            return 0
