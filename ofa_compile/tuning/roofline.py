"""The least time that a core's peaks allow a workload: an estimate, to rank and to stop by."""

from __future__ import annotations

from ofa_compile.compiler import workload as w
from ofa_compile.hardware.target_spec import CoreSpec

_VALUE_BYTES = 4
# A private second-level cache delivers about half a vector register per cycle, sustained.
_L2_VECTORS_PER_CYCLE = 0.5
# Dense workloads to see before the arithmetic peak is believed.
_MIN_FOR_PEAK = 8
# A call costs at least some hundred cycles, whatever it does.
_CYCLES_PER_CALL = 300.0


class Roofline:
    """Bounds from a core's arithmetic and its second-level cache.

    The clock in a target is often below what a core reaches, so the arithmetic peak is raised by
    whatever has been measured.

    Parameters
    ----------
    core
        Facts of the core.
    """

    def __init__(self, core: CoreSpec) -> None:
        lanes = core.vector_bits / 32
        self.macs_per_us = core.fma_per_cycle * lanes * core.frequency_hz * 1e-6
        bytes_per_cycle = _L2_VECTORS_PER_CYCLE * core.vector_bits / 8
        self._bytes_per_us = bytes_per_cycle * core.frequency_hz * 1e-6
        self._call_us = _CYCLES_PER_CALL / core.frequency_hz * 1e6
        self._dense: set[w.Workload] = set()

    def learn(self, workload: w.Workload, time_us: float) -> None:
        """Take a measured time into account."""
        if has_dense_arithmetic(workload):
            self._dense.add(workload)
            self.macs_per_us = max(self.macs_per_us, workload.macs / time_us)

    @property
    def is_known(self) -> bool:
        """Whether enough was measured to stop by `share`."""
        return len(self._dense) >= _MIN_FOR_PEAK

    def time_us(self, workload: w.Workload) -> float:
        """Return the bound in microseconds."""
        traffic = _VALUE_BYTES * num_values(workload)
        return self._call_us + max(workload.macs / self.macs_per_us, traffic / self._bytes_per_us)

    def share(self, workload: w.Workload, time_us: float) -> float:
        """Return how close a measured time comes to the bound (1: it is reached)."""
        return self.time_us(workload) / time_us


def has_dense_arithmetic(workload: w.Workload) -> bool:
    """Whether `macs` are really computed: depthwise windows count taps in the padding."""
    return isinstance(workload, w.Pointwise)


def num_values(workload: w.Workload) -> int:
    """Count the float32 values that a workload reads and writes, each once."""
    match workload:
        case w.Pointwise():
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
            weights = workload.in_channels * workload.out_channels * workload.kernel[0] ** 2
            return workload.batch * (inputs + outputs) + weights
        case w.GlobalPool():
            return workload.batch * (workload.positions + 1) * workload.channels
        case w.ScaleChannels() | w.ChangeLayout():
            return 2 * workload.batch * workload.positions * workload.channels
        case w.Add():
            return 3 * workload.size
        case w.Activate():
            return 2 * workload.size
        case w.ScaleWeights():
            return 2 * workload.in_channels * sum(workload.block_widths)
        case _:
            return 0
