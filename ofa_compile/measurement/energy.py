"""Energy of a run on a GPU that counts what it uses."""

from __future__ import annotations

import time
from typing import Protocol

from ofa_compile.hardware.nvml import EnergyMeter
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.latency import Runner

# NVIDIA's counters are brought up to date up to ten times a second.
_SECONDS = 1.0
_RUNS_PER_LOOK = 10


class Meter(Protocol):
    """A counter of energy."""

    def joules(self) -> float | None:
        """Return what has been used so far; None where that cannot be read."""


def energy_meter(target: TargetSpec) -> EnergyMeter | None:
    """Return the meter of the GPU that runs a target's code here; None where nothing counts.

    Raises
    ------
    DeviceUnavailableError
        If a CUDA target has no device here.
    """
    if target.kind != "cuda" or target.runner.kind != "local":
        return None
    from ofa_compile.hardware.cuda_devices import check_cuda, pci_bus_id

    meter = EnergyMeter(pci_bus_id(check_cuda()[0]))
    return None if meter.joules() is None else meter


def joules_per_run(runner: Runner, meter: Meter) -> float | None:
    """Return the mean energy of a run, of runs one behind the other; idle power is part of it.

    Parameters
    ----------
    runner
        A network on the GPU of the meter.
    meter
        Its counter.

    Returns
    -------
    Joules; None if the counter cannot be read any more.
    """
    runner.time(_RUNS_PER_LOOK)
    before, start, runs = meter.joules(), time.monotonic(), 0
    while time.monotonic() - start < _SECONDS:
        runner.time(_RUNS_PER_LOOK)
        runs += _RUNS_PER_LOOK
    after = meter.joules()
    return None if before is None or after is None else (after - before) / runs
