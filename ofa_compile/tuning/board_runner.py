"""Runs candidates on boards behind TVM's RPC; what a board is lost with, another repeats."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ofa_compile.errors import BoardLostError, BuildError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.tuning.board_pool import BoardPool, JobLostError, TakeBoard
from ofa_compile.tuning.board_watch import BoardLeftOutError
from ofa_compile.tuning.candidate_runner import CandidateRunner
from ofa_compile.tuning.jobs import BuiltCandidate, TrialResult
from ofa_compile.tuning.local_runner import TimingPlan
from ofa_compile.tuning.program import CandidateLinker, CandidateProgram, ProgramReport
from ofa_compile.tuning.race import FINAL_ROUNDS, choose_finalists
from ofa_compile.tuning.tuning_board import TuningBoard, TuningReport

_PROGRAM, _DATA = "candidates", "candidates.f32"
_REFERENCE, _REFERENCE_DATA = "reference", "reference.f32"
# Loading data and starting, on a slow board.
_SETUP_S = 20.0


class BoardRunner(CandidateRunner):
    """Runs jobs on whichever board is free.

    Parameters
    ----------
    target
        The boards' target.
    take_board
        As `BoardPool` takes it.
    num_boards
        How many to hold at once.
    timing
        How candidates are timed.
    """

    def __init__(
        self,
        target: TargetSpec,
        take_board: TakeBoard,
        num_boards: int,
        timing: TimingPlan | None = None,
    ) -> None:
        self._timing = timing or TimingPlan()
        self._linker = CandidateLinker(target)
        self._boards = BoardPool(take_board, num_boards)
        super().__init__(num_boards)

    def _stop(self) -> None:
        self._boards.stop()

    def _release(self) -> None:
        self._boards.close()

    @property
    def boards(self) -> Sequence[TuningReport]:
        """What every board did."""
        return self._boards.reports

    def _attempt(self, candidates: list[BuiltCandidate]) -> dict[int, TrialResult]:
        with tempfile.TemporaryDirectory(prefix="ofa-candidates-") as folder:
            try:
                program = self._linker.link(candidates, Path(folder))
                job = partial(self._run_on, program=program)
                found = self._boards.on_any(job, partial(_Reference, program, self._timing))
            except BuildError as error:
                found = TrialResult("build", str(error))
            except JobLostError as error:
                found = TrialResult("crash", str(error))
        if isinstance(found, TrialResult):
            return dict.fromkeys(range(len(candidates)), found)
        return found

    def _run_on(self, board: TuningBoard, program: CandidateProgram) -> dict[int, TrialResult]:
        """Run until every candidate has a result: one that fails is out, the others go on."""
        board.put(_PROGRAM, program.executable.read_bytes())
        board.put(_DATA, program.data.read_bytes())
        results: dict[int, TrialResult] = {}
        rounds = self._timing.rounds
        while waiting := [n for n in range(len(program.symbols)) if n not in results]:
            report, failed = self._call(board, waiting, rounds)
            results.update(report.failures())
            if failed is not None:
                results.update(failed)
                continue
            times = report.times()
            finalists = choose_finalists({n: (r.time_us or 0.0, 0.0) for n, r in times.items()})
            if len(finalists) > 1:
                final, failed = self._call(board, finalists, FINAL_ROUNDS * rounds)
                times.update(failed or final.times())
            results.update(times)
        return results

    def _call(
        self, board: TuningBoard, numbers: Sequence[int], rounds: int
    ) -> tuple[ProgramReport, dict[int, TrialResult] | None]:
        """Run the program once; return what it said, and the result of one that ended it."""
        timing = self._timing
        arguments = [_DATA, str(rounds), str(timing.turn_us), *map(str, numbers)]
        # Kernels that take longer than a turn run once in it.
        limit_s = _SETUP_S + timing.timeout_s + 2e-6 * timing.turn_us * rounds * len(numbers)
        done = board.run([_PROGRAM, *arguments], limit_s=limit_s)
        report = ProgramReport.parse(done.output)
        is_through = done.status == 0 and not done.is_timed_out
        if is_through and report.is_complete(numbers, rounds):
            return report, None
        current = report.current
        if is_through or current is None or not {current, *report.wrong} <= set(numbers):
            msg = f"board {board.name} cannot run candidates ({done.status}): {done.output[:300]}"
            raise BoardLostError(msg)
        if done.is_timed_out:
            result = TrialResult("timeout", f"no end within {limit_s:.0f} s")
        else:
            result = TrialResult("crash", f"the program ended with {done.status} on {board.name}")
        return report, {current: result}


class _Reference:
    """One candidate of a program, which is read at once: its folder goes."""

    def __init__(self, program: CandidateProgram, timing: TimingPlan, number: int) -> None:
        self._files = {
            _REFERENCE: program.executable.read_bytes(),
            _REFERENCE_DATA: program.data.read_bytes(),
        }
        self._command = [_REFERENCE, _REFERENCE_DATA, str(timing.rounds), str(timing.turn_us)]
        self._command.append(str(number))
        self._limit_s = _SETUP_S + timing.timeout_s

    def put_on(self, board: TuningBoard) -> None:
        """Write it to a board."""
        for name, data in self._files.items():
            board.put(name, data)

    def time_us(self, board: TuningBoard) -> float:
        """Run it there, or leave out a board that cannot."""
        done = board.run(self._command, limit_s=self._limit_s)
        report = ProgramReport.parse(done.output)
        times = list(report.times().values())
        if done.status == 0 and times and times[0].time_us is not None:
            return times[0].time_us
        how = "no end" if done.is_timed_out else f"it ended with {done.status}"
        msg = "left out: it cannot run the reference, which another board can: "
        msg += next(iter(report.wrong.values()), how)
        raise BoardLeftOutError(msg)
