"""Judges candidates for a core that is not at hand: instructions counted in an emulator, as cycles.

Each candidate is checked in the emulator as it is on a device. Its time is an *estimate*: executed
instructions by LLVM's model of the core, over the clock. Caches and memory do not exist in it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from ofa_compile.errors import BuildError, MeasurementError, MissingDependencyError
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.cycle_model import (
    Disassembly,
    core_model,
    estimate_cycles,
    find_mca,
)
from ofa_compile.measurement.instruction_counts import count_instructions
from ofa_compile.tuning.candidate_runner import CandidateRunner
from ofa_compile.tuning.database import LatencyKind, Status
from ofa_compile.tuning.jobs import BuiltCandidate, Results, TrialResult
from ofa_compile.tuning.program import CandidateLinker, CandidateProgram, ProgramReport

# An emulator runs some ten million multiply-adds a second.
_TIMEOUT_S = 120.0


class EstimateRunner(CandidateRunner):
    """Runs jobs in an emulator that counts instructions.

    Parameters
    ----------
    target
        An arm64 target with an emulator.
    timeout_s
        A job that takes longer hangs.

    Raises
    ------
    MissingDependencyError
        If the emulator, llvm-mca or the compiler for the target is not installed.
    """

    kind: LatencyKind = "estimate"

    def __init__(self, target: TargetSpec, *, timeout_s: float = _TIMEOUT_S) -> None:
        emulator = find_emulator(target)
        mca = find_mca()
        if emulator is None or mca is None or target.arch != "aarch64":
            msg = f"nothing estimates cycles of '{target.name}': that takes llvm-mca and an arm64"
            msg += " target with an emulator"
            raise MissingDependencyError(msg, hint="apt-get install llvm qemu-user")
        self._emulator, self._mca, self._timeout_s = emulator, mca, timeout_s
        self._core = core_model(target, emulator)
        self._cycles_per_us = 1e-6 * target.core.frequency_hz
        self._linker = CandidateLinker(target)
        super().__init__(1)

    def _stop(self) -> None:
        """Let the job under way end: it has a time limit."""

    def _release(self) -> None:
        """Give nothing back, as nothing is held."""

    def _attempt(self, candidates: list[BuiltCandidate]) -> Results:
        with tempfile.TemporaryDirectory(prefix="ofa-candidates-") as folder:
            try:
                return self._estimate(self._linker.link(candidates, Path(folder)))
            except BuildError as error:
                return dict.fromkeys(range(len(candidates)), TrialResult("build", str(error)))

    def _estimate(self, program: CandidateProgram) -> dict[int, TrialResult]:
        """Check all candidates, then count what those that are right execute."""
        results: dict[int, TrialResult] = {}
        while waiting := [n for n in range(len(program.symbols)) if n not in results]:
            # No rounds: the one call of the check is what is counted.
            command = [str(program.executable), str(program.data), "0", "0", *map(str, waiting)]
            try:
                counts = count_instructions(self._emulator, command, timeout_s=self._timeout_s)
            except MeasurementError:
                # The plug-in's run says nothing of what went before; a plain one does.
                results.update(self._blame(command))
                continue
            results.update(ProgramReport.parse(counts.output).failures())
            right = [number for number in waiting if number not in results]
            code = Disassembly(program.executable)
            functions = code.by_function(counts.by_address)
            works = [code.blocks(functions.get(program.symbols[n], {})) for n in right]
            cycles = estimate_cycles(self._mca, self._core, works)
            for number, figure in zip(right, cycles, strict=True):
                time_us = figure.cycles / self._cycles_per_us
                results[number] = TrialResult("ok", None, time_us, 0.0)
        return results

    def _blame(self, command: list[str]) -> dict[int, TrialResult]:
        """Run without counting, to see which candidate fails and how."""
        status: Status = "crash"
        try:
            done = subprocess.run(
                [*self._emulator, *command],
                capture_output=True,
                text=True,
                check=False,
                timeout=self._timeout_s,
            )
            output, how = done.stdout, f"the program ended with {done.returncode} in the emulator"
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode(errors="replace")
            status, how = "timeout", f"no end within {self._timeout_s:.0f} s"
        report = ProgramReport.parse(output)
        current = report.current
        if current is None:
            msg = f"the emulator cannot run candidates: {how}"
            raise MeasurementError(msg)
        return {**report.failures(), current: TrialResult(status, how)}
