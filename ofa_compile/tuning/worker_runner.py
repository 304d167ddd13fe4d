"""What runners on this machine share: a worker process that may crash or hang without harm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor

from ofa_compile.tuning.database import LatencyKind
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, TrialResult
from ofa_compile.tuning.worker import Worker


class WorkerRunner(ABC):
    """Runs jobs one after the other in a worker process, which is replaced when it fails.

    Parameters
    ----------
    module
        What the worker runs.
    """

    kind: LatencyKind = "measurement"
    num_parallel = 1  # more would disturb each other

    def __init__(self, module: str) -> None:
        self._worker = Worker(module)
        self._thread = ThreadPoolExecutor(1, "ofa-run")

    def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
        """Start running; gives one result per candidate, failures included."""
        return self._thread.submit(self._run, built)

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        self._worker.kill()
        self._thread.shutdown(cancel_futures=True)
        self._worker.close()

    @abstractmethod
    def _attempt(self, candidates: list[BuiltCandidate]) -> dict[int, TrialResult]:
        """Return results by position, of one candidate at least; the others are tried again."""

    def _run(self, built: BuiltJob) -> list[TrialResult]:
        """Run until every candidate has a result: one that fails is out, the others go on."""
        results: dict[int, TrialResult] = {
            number: TrialResult("build", candidate.error)
            for number, candidate in enumerate(built.candidates)
            if candidate.error is not None
        }
        while len(results) < len(built.candidates):
            waiting = [n for n in range(len(built.candidates)) if n not in results]
            found = self._attempt([built.candidates[n] for n in waiting])
            results.update({waiting[place]: result for place, result in found.items()})
        return [results[number] for number in range(len(built.candidates))]
