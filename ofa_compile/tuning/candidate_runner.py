"""What runners share: jobs in threads, and their candidates tried until each has a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ofa_compile.tuning.attempts import settle
from ofa_compile.tuning.database import LatencyKind
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, TrialResult
from ofa_compile.tuning.tuning_board import TuningReport


class CandidateRunner(ABC):
    """Runs jobs, so many at a time.

    Parameters
    ----------
    num_parallel
        How many; each has a thread.
    """

    kind: LatencyKind = "measurement"

    def __init__(self, num_parallel: int) -> None:
        self.num_parallel = num_parallel
        self._threads = ThreadPoolExecutor(num_parallel, "ofa-run")

    @property
    def boards(self) -> Sequence[TuningReport]:
        """What every board did; empty without boards."""
        return ()

    def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
        """Start running; gives one result per candidate, failures included."""
        return self._threads.submit(self._run, built)

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        self._stop()
        self._threads.shutdown(cancel_futures=True)
        self._release()

    @abstractmethod
    def _attempt(self, candidates: list[BuiltCandidate]) -> dict[int, TrialResult]:
        """Return results by position, of one candidate at least; the others are tried again."""

    @abstractmethod
    def _stop(self) -> None:
        """Make what is under way fail at once, for good."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what is held; nothing is under way any more."""

    def _run(self, built: BuiltJob) -> list[TrialResult]:
        """Run until every candidate has a result: one that fails is out, the others go on."""
        failed = {
            number: TrialResult("build", candidate.error)
            for number, candidate in enumerate(built.candidates)
            if candidate.error is not None
        }
        return settle(built.candidates, self._attempt, failed)
