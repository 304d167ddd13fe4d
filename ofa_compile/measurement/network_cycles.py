"""Estimate the latency of whole subnets for a core that is not at hand.

One inference's instructions are counted in an emulator, and LLVM's model of the core turns them
into cycles (see `cycle_model`, which says what that leaves out).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.errors import DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.emulator import resolve
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.cycle_model import (
    INSTRUCTION_SETS,
    Disassembly,
    core_model,
    estimate_cycles,
    find_mca,
)
from ofa_compile.measurement.instruction_counts import InstructionCounts, count_instructions

LEFT_OUT = "caches, memory, branches, overlap between blocks of code"
# Loading and printing cancel between runs of so many inferences.
_RUNS = (1, 3)


@dataclass(frozen=True)
class NetworkEstimate:
    """What one inference takes, as far as a model of the core tells."""

    ms: float
    instructions: int
    cycles: float
    instructions_per_cycle: float


class CycleEstimator:
    """Estimates executables of subnets.

    Parameters
    ----------
    target
        A target with an emulator of an instruction set in `INSTRUCTION_SETS`.
    core
        LLVM's name of the core; the target's own if None.

    Raises
    ------
    DeviceUnavailableError
        If the target has no emulator, or nothing models its instruction set.
    MissingDependencyError
        If the emulator or llvm-mca is not installed.
    """

    def __init__(self, target: TargetSpec, *, core: str | None = None) -> None:
        if target.emulator is None or target.arch not in INSTRUCTION_SETS:
            known = ", ".join(INSTRUCTION_SETS)
            msg = f"nothing estimates cycles of '{target.name}' ({target.arch}): that takes an "
            msg += f"emulator in its file, and one of {known}"
            raise DeviceUnavailableError(msg, hint="`search` estimates from facts about the core")
        emulator, mca = resolve(target.emulator.command, target.name), find_mca()
        if mca is None:
            msg = "llvm-mca is not installed"
            raise MissingDependencyError(msg, hint="apt-get install llvm")
        self._emulator, self._mca, self._arch = emulator, mca, target.arch
        self.core = core or core_model(target, self._emulator)
        self._frequency_hz = target.core.frequency_hz

    @property
    def method(self) -> dict[str, str]:
        """How the figures come about, to be kept beside them."""
        how = f"instructions counted in {Path(self._emulator[0]).name}, "
        how += f"cycles by {self._mca} -mcpu={self.core}"
        return {"estimated_by": how, "left_out": LEFT_OUT}

    def estimate(self, executable: Path, raw_input: Path) -> NetworkEstimate:
        """Estimate one inference of a bundle's executable, which has its symbols.

        Raises
        ------
        MeasurementError
            If it cannot be run in the emulator, or llvm-mca fails.
        """
        counts = count_inference(self._emulator, [str(executable), *counted(raw_input)])
        code = Disassembly(executable, self._arch)
        (found,) = estimate_cycles(
            self._mca, self.core, [code.blocks(counts.by_address)], self._arch
        )
        return NetworkEstimate(
            ms=1e3 * found.cycles / self._frequency_hz,
            instructions=counts.total,
            cycles=found.cycles,
            instructions_per_cycle=found.instructions_per_cycle,
        )


def counted(raw_input: Path) -> list[str]:
    """Return a bundle's options for `count_inference`, without untimed runs: emulators are slow."""
    return ["--raw", str(raw_input), "--warmup", "0", "--benchmark"]


def count_inference(emulator: Sequence[str], command: Sequence[str]) -> InstructionCounts:
    """Count one inference of a program whose last argument, left out here, says how many to run."""
    few, many = (count_instructions(emulator, [*command, str(n)]) for n in _RUNS)
    share = _RUNS[1] - _RUNS[0]
    by_address = Counter(
        {
            address: (executions - few.by_address[address]) // share
            for address, executions in many.by_address.items()
            if executions > few.by_address[address]
        }
    )
    return InstructionCounts((many.total - few.total) // share, by_address)
