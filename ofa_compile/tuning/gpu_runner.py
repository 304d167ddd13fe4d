"""Runs candidates on a GPU of this machine, in a process that may crash or hang without harm."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa_compile.errors import BuildError, TuningError
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.database import Status
from ofa_compile.tuning.gpu_program import CandidateNetworkLinker
from ofa_compile.tuning.jobs import BuiltCandidate, TrialResult
from ofa_compile.tuning.worker import WorkerFailure
from ofa_compile.tuning.worker_runner import WorkerRunner

_MODULE = "ofa_compile.tuning.gpu_measure_worker"
_ROUNDS = 9
# Of timed launches of a job; a software device takes longer for its least rounds.
_BUDGET_MS = 150.0
_TIMEOUT_S = 120.0
_Results = dict[int, TrialResult]


class GpuRunner(WorkerRunner):
    """Runs jobs one after the other in a worker process, which is replaced when it fails.

    Parameters
    ----------
    target
        A GPU target that runs on this machine.
    timeout_s
        A job that is silent for so long hangs.

    Raises
    ------
    DeviceUnavailableError
        If this machine has no such GPU.
    MissingDependencyError
        If this machine cannot link for the target.
    """

    def __init__(self, target: TargetSpec, *, timeout_s: float = _TIMEOUT_S) -> None:
        check_gpu(target.kind)
        self._linker = CandidateNetworkLinker(target)
        self._timeout_s = timeout_s
        super().__init__(_MODULE)

    def _attempt(self, candidates: list[BuiltCandidate]) -> _Results:
        """Run candidates in one network; if that fails, leave out those that fail alone."""
        found = self._network(candidates)
        if not isinstance(found, TrialResult):
            return found
        if len(candidates) == 1:
            return {0: found}
        failed: _Results = {}
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

    def _network(self, candidates: Sequence[BuiltCandidate]) -> _Results | TrialResult:
        """Return the results of candidates, or how the network of all of them failed."""
        with tempfile.TemporaryDirectory(prefix="ofa-candidates-") as folder:
            try:
                network = self._linker.link(candidates, Path(folder))
            except BuildError as error:
                return TrialResult("build", str(error))
            request: dict[str, Any] = {
                "library": str(network.library),
                "rounds": _ROUNDS,
                "budget_ms": _BUDGET_MS,
                "candidates": [
                    {"data": str(candidate.data), "output": output, "num_launches": count}
                    for candidate, output, count in zip(
                        candidates, network.outputs, network.num_launches, strict=True
                    )
                ],
            }
            found: _Results = {}
            try:
                for reply in self._worker.call(request, self._timeout_s):
                    number = reply.pop("result")
                    found[number] = TrialResult(**reply)
            except TuningError as error:  # the device says so
                return TrialResult("crash", str(error))
            except WorkerFailure as failure:
                status: Status = "timeout" if failure.is_timeout else "crash"
                return TrialResult(status, str(failure))
            return found
