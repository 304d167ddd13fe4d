"""Runs candidates on this machine, in a process that may crash or hang without harm."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import BuildError, DeviceUnavailableError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.attempts import ask_for_each
from ofa_compile.tuning.candidate_runner import CandidateRunner
from ofa_compile.tuning.jobs import BuiltCandidate, TrialResult
from ofa_compile.tuning.worker import Worker, WorkerFailure

_MODULE = "ofa_compile.tuning.measure_worker"


@dataclass(frozen=True, kw_only=True)
class TimingPlan:
    """How candidates are timed.

    Attributes
    ----------
    rounds
        Turns that every candidate gets; the best get three times as many.
    turn_us
        Length of a turn.
    timeout_s
        A candidate that is silent for so long hangs.
    """

    rounds: int = 9
    turn_us: float = 1000.0
    timeout_s: float = 10.0


class LocalRunner(CandidateRunner):
    """Runs jobs one after the other in a worker process, which is replaced when it fails.

    Parameters
    ----------
    target
        A target that this machine can run.
    folder
        Existing folder for the timer's library.
    timing
        How candidates are timed.

    Raises
    ------
    DeviceUnavailableError
        If this machine cannot run the target's code.
    """

    def __init__(self, target: TargetSpec, folder: Path, timing: TimingPlan | None = None) -> None:
        if not target.is_native:
            msg = f"this machine cannot run code for {target.name}, so it cannot tune for it"
            raise DeviceUnavailableError(msg, hint="the kernels' own defaults serve meanwhile")
        self._timing = timing or TimingPlan()
        self._l2_bytes = target.core.l2_bytes
        self._timer = _compile_timer(target, folder)
        self._worker = Worker(_MODULE)
        super().__init__(1)  # more would disturb each other

    def _stop(self) -> None:
        self._worker.kill()

    def _release(self) -> None:
        self._worker.close()

    def _attempt(self, candidates: list[BuiltCandidate]) -> dict[int, TrialResult]:
        """Run candidates together; if the worker fails, return the one it failed on."""
        request: dict[str, Any] = {
            "timer": str(self._timer),
            "l2_bytes": self._l2_bytes,
            "rounds": self._timing.rounds,
            "turn_us": self._timing.turn_us,
            "candidates": [
                {
                    "library": str(candidate.library),
                    "symbol": candidate.symbol,
                    "data": str(candidate.data),
                    "pointers": candidate.pointers,
                    "num_tiles": candidate.num_tiles,
                    "fetch_steps": candidate.fetch_steps,
                    "fetch_bytes": candidate.fetch_bytes,
                }
                for candidate in candidates
            ],
        }
        replies = ask_for_each(self._worker, request, self._timing.timeout_s)
        found = {number: _result(reply) for number, reply in replies.items()}
        if any(result.status == "wrong" for result in found.values()):
            self._worker.retire()  # who knows what else it wrote to
        return found


def _result(reply: dict[str, Any] | WorkerFailure) -> TrialResult:
    if isinstance(reply, WorkerFailure):
        return TrialResult("timeout" if reply.is_timeout else "crash", str(reply))
    return TrialResult(**reply)


def _compile_timer(target: TargetSpec, folder: Path) -> Path:
    """Build the C loop that times kernels."""
    library = folder / "timer.so"
    source = runtime_folder() / "kernel_timer.c"
    flags = ("-std=c11", "-O2", "-fPIC", "-shared")
    command = [*find_linker(target).command, *flags, "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        msg = f"the kernel timer cannot be compiled: {done.stderr.strip()[:1000]}"
        raise BuildError(msg)
    return library
