"""Tells whether boards are fit to tune on: alike, and as fast after a job as before it.

The first candidate that some board computes right is the reference. Every board times it after
every job, and only then do the job's results count: put on the scale of the median board, so that
what different boards measured compares. A board that became slower or faster has its job measured
again; one that is unlike the others or cannot run the reference is left out, and so is one that
keeps changing, unless it is the last.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from ofa_compile.errors import BoardLostError, DeviceError
from ofa_compile.measurement.board_reports import BoardReports
from ofa_compile.measurement.roll_call import RollCall, deviation
from ofa_compile.tuning.jobs import Results, TrialResult
from ofa_compile.tuning.tuning_board import BoardReference, TuningBoard, TuningReport

# A disturbed moment is no drift: that lasts.
_TRIES = 3
# A board whose jobs are spoilt so often in a row does not keep its speed.
_MAX_DRIFTS = 3
# How long a board that computes nothing right waits for another one to do better.
_PATIENCE_S = 10.0


class BoardLeftOutError(BoardLostError):
    """A board that must not be used any more, though it answers."""


class BoardDriftedError(DeviceError):
    """A board's speed changed during a job."""


@dataclass
class _State:
    """What is known of a board that is held."""

    reference_us: float
    num_drifts_in_a_row: int = 0


class BoardWatch:
    """Judges boards by a reference; what is said of one board comes from one thread at a time.

    Parameters
    ----------
    num_boards
        How many are hoped for.
    """

    def __init__(self, num_boards: int) -> None:
        self._roll_call = RollCall(num_boards)
        self._reference: BoardReference | None = None
        self._scale_us: float | None = None
        self._called: set[TuningBoard] = set()
        self._states: dict[TuningBoard, _State] = {}
        self._lock = threading.Condition()
        self._num_places, self._is_stopped = num_boards, False
        self.reports = BoardReports(TuningReport)

    def miss(self) -> None:
        """Take note that one board fewer will come."""
        self._roll_call.withdraw(has_arrived=False)

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._lock:
            self._is_stopped = True
            self._lock.notify_all()

    def dismiss(self, board: TuningBoard, reason: str) -> None:
        """Take note of why a board is used no more."""
        self.reports.blame(board.name, reason)
        self._states.pop(board, None)
        if board not in self._called:
            self._roll_call.withdraw(has_arrived=False)

    def approve(
        self, board: TuningBoard, results: Results, reference: Callable[[int], BoardReference]
    ) -> Results:
        """Return a job's results on the common scale, with the board's name.

        Parameters
        ----------
        board
            Where they come from.
        results
            By candidate.
        reference
            Makes a reference of one of the candidates, which the board computed right.

        Raises
        ------
        BoardLeftOutError
            If the board is not fit.
        BoardDriftedError
            If its speed changed; the job is to be measured again.
        """
        scale = 1.0
        right = [number for number, result in sorted(results.items()) if result.status == "ok"]
        with self._lock:
            if self._reference is None and right:
                self._reference = reference(right[0])
                self._lock.notify_all()
            elif self._num_places > 1:
                # The candidates' fault or the board's? A reference tells.
                self._lock.wait_for(lambda: self._reference or self._is_stopped, _PATIENCE_S)
        if self._reference is not None:
            scale = self._scale(board, self._reference)
        return {n: _placed(result, board.name, scale) for n, result in results.items()}

    def _scale(self, board: TuningBoard, reference: BoardReference) -> float:
        """Return what the board's times are multiplied with, if it is fit."""
        if board not in self._called:
            self._join(board, reference)
        else:
            self._check(board, reference)
        now_us = self._states[board].reference_us
        with self._lock:
            if self._scale_us is None:
                self._scale_us = 1e3 * self._roll_call.median_ms
            return self._scale_us / now_us

    def _join(self, board: TuningBoard, reference: BoardReference) -> None:
        """Compare a board that is new with the others."""
        self._called.add(board)
        is_known = self.reports.of(board.name).reference_us is not None  # from an earlier session
        if not is_known:
            self._roll_call.arrive()
        try:
            reference.put_on(board)
            now_us = reference.time_us(board)
        except BaseException:
            if not is_known:
                self._roll_call.withdraw(has_arrived=True)
            raise
        self._note(board, now_us)
        if not is_known:
            self._roll_call.report(board.name, now_us / 1e3)
        if self._objection(board, now_us) is not None:  # it may have been disturbed
            self._check(board, reference)

    def _check(self, board: TuningBoard, reference: BoardReference) -> None:
        """Compare a board with itself at the last look, and with the others."""
        state = self._states[board]
        for _ in range(_TRIES):
            now_us = reference.time_us(board)
            drift = deviation(now_us, state.reference_us)
            objection = self._objection(board, now_us)
            if drift is None and objection is None:
                self._note(board, now_us)
                return
        if objection is not None:
            msg = f"left out: {objection}"
            raise BoardLeftOutError(msg)
        drift = f"{drift} than before the job: {state.reference_us:.4g} us for the reference, then"
        drift += f" {now_us:.4g} us"
        self._drifted(board, now_us, drift)

    def _drifted(self, board: TuningBoard, now_us: float, drift: str) -> None:
        """Go on from a board's new speed; leave it out if it changes all the time."""
        num_drifts = self._states[board].num_drifts_in_a_row + 1
        self.reports.of(board.name).num_drifts += 1
        self._note(board, now_us, num_drifts)
        if num_drifts < _MAX_DRIFTS:
            msg = f"it is {drift}; what it measured meanwhile is measured again"
            raise BoardDriftedError(msg)
        problem = f"it does not keep its speed: {num_drifts} times in a row, last {drift}"
        if len(self._states) > 1:
            msg = f"left out: {problem}"
            raise BoardLeftOutError(msg)
        # Nobody else is there, and candidates were compared in shared rounds after all.
        self.reports.of(board.name).problem = problem
        self._note(board, now_us)

    def _note(self, board: TuningBoard, now_us: float, num_drifts: int = 0) -> None:
        self._states[board] = _State(now_us, num_drifts)
        self.reports.of(board.name).reference_us = now_us
        self._roll_call.update(board.name, now_us / 1e3)

    def _objection(self, board: TuningBoard, now_us: float) -> str | None:
        return self._roll_call.objection(board.name, now_us / 1e3)


def _placed(result: TrialResult, board: str, scale: float) -> TrialResult:
    time_us = None if result.time_us is None else scale * result.time_us
    return replace(result, board=board, time_us=time_us)
