"""Runs candidates for a GPU, of this machine or of boards, and finds those that bring it down."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.candidate_runner import CandidateRunner
from ofa_compile.tuning.gpu_program import CandidateNetwork, CandidateNetworkLinker
from ofa_compile.tuning.jobs import BuiltCandidate, Results, TrialResult
from ofa_compile.tuning.tuning_board import TuningReport


class CandidateDevice(Protocol):
    """Where networks of candidates are run.

    Attributes
    ----------
    num_parallel
        How many at a time, each from a thread of its own.
    takes_programs
        Whether a network is an executable there, or a library.
    """

    num_parallel: int
    takes_programs: bool

    @property
    def reports(self) -> Sequence[TuningReport]:
        """What every board did; empty without boards."""

    def run(self, network: CandidateNetwork) -> Results | TrialResult:
        """Return the result of every candidate, or how the network of all of them failed."""

    def stop(self) -> None:
        """Make what is under way fail at once."""

    def close(self) -> None:
        """Give back what is held; nothing may be under way."""


class GpuRunner(CandidateRunner):
    """Runs jobs, each as one network; of a network that fails, its candidates apart.

    Parameters
    ----------
    target
        A GPU target.
    device
        Its device; closed with the runner.

    Raises
    ------
    MissingDependencyError
        If this machine cannot link for the target.
    """

    def __init__(self, target: TargetSpec, device: CandidateDevice) -> None:
        self._linker = CandidateNetworkLinker(target, as_program=device.takes_programs)
        self._device = device
        super().__init__(device.num_parallel)

    @property
    def boards(self) -> Sequence[TuningReport]:
        """What every board did; empty without boards."""
        return self._device.reports

    def _stop(self) -> None:
        self._device.stop()

    def _release(self) -> None:
        self._device.close()

    def _attempt(self, candidates: list[BuiltCandidate]) -> Results:
        """Run candidates in one network; if that fails, leave out those that fail alone."""
        found = self._network(candidates)
        if not isinstance(found, TrialResult):
            return found
        if len(candidates) == 1:
            return {0: found}
        failed: Results = {}
        for number, candidate in enumerate(candidates):
            alone = self._network([candidate])
            result = alone if isinstance(alone, TrialResult) else alone[0]
            if result.status != "ok":
                failed[number] = result
        rest = [number for number in range(len(candidates)) if number not in failed]
        if not failed or not rest:  # they fail together only
            return failed or dict.fromkeys(range(len(candidates)), found)
        again = self._attempt([candidates[number] for number in rest])
        return failed | {rest[place]: result for place, result in again.items()}

    def _network(self, candidates: Sequence[BuiltCandidate]) -> Results | TrialResult:
        """Return the results of candidates, or how the network of all of them failed."""
        with tempfile.TemporaryDirectory(prefix="ofa-candidates-") as folder:
            try:
                network = self._linker.link(candidates, Path(folder))
            except BuildError as error:
                return TrialResult("build", str(error))
            return self._device.run(network)
