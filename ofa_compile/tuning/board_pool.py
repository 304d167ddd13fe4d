"""Boards that jobs take in turns; one that is lost is replaced when no other is left.

One that was left out for what it measures is not taken again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from ofa_compile.errors import BoardLostError, DeviceError, DeviceUnavailableError
from ofa_compile.remote.session import Blame
from ofa_compile.tuning.board_watch import (
    BoardDriftedError,
    BoardLeftOutError,
    BoardWatch,
)
from ofa_compile.tuning.jobs import Results, TrialResult
from ofa_compile.tuning.tuning_board import BoardReference, TuningBoard, TuningReport

logger = logging.getLogger(__name__)

TakeBoard = Callable[[Blame], TuningBoard]

# A job that costs so many boards is to blame itself.
_MAX_BOARDS_LOST = 2


class JobLostError(DeviceError):
    """A job lost every board that it was given to, as many as a job may cost."""


class BoardPool:
    """Holds boards until it is closed.

    Parameters
    ----------
    take_board
        Waits for a board and holds it; raises `DeviceError` if none can be had. Is given what to
        call with name and reason of boards that were offered and could not be taken.
    count
        How many boards to hold at once, at most.
    """

    def __init__(self, take_board: TakeBoard, count: int) -> None:
        self._take, self._count = take_board, count
        self._free: list[TuningBoard] = []
        self._all: list[TuningBoard] = []
        self._num_taking = self._num_lost = 0
        self._left_out: dict[str, str] = {}
        self._watch = BoardWatch(count)
        self._is_stopped = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def held(self) -> Iterator[TuningBoard]:
        """Hold a board for the time of the block; it goes back unless it was forgotten.

        Raises
        ------
        DeviceError
            If no board is left and none can be had.
        """
        board = self._wait_for_one()
        try:
            yield board
        finally:
            with self._changed:
                if board in self._all:
                    self._free.append(board)
                self._changed.notify_all()

    @property
    def reports(self) -> tuple[TuningReport, ...]:
        """What every board did, in the order of their names."""
        return self._watch.reports.listed

    def on_any(
        self,
        job: Callable[[TuningBoard], Results | TrialResult],
        reference: Callable[[int], BoardReference],
    ) -> Results | TrialResult:
        """Do a job with one board, and again if that one is lost or not fit.

        Parameters
        ----------
        job
            Returns the result of every candidate, or how all of them failed.
        reference
            Makes a reference for `BoardWatch` of one of the candidates.

        Raises
        ------
        JobLostError
            If too many were lost with it.
        DeviceError
            If no board is left and none can be had.
        """
        num_lost = 0
        while True:
            with self.held() as board:
                try:
                    found = job(board)
                    every = {0: found} if isinstance(found, TrialResult) else found
                    approved = self._watch.approve(board, every, reference)
                    return approved[0] if isinstance(found, TrialResult) else approved
                except BoardDriftedError as error:
                    logger.warning("board %s: %s", board.name, error)
                except BoardLeftOutError as error:
                    self._left_out[board.name] = str(error)
                    self.forget(board, str(error))
                except BoardLostError as error:
                    self.forget(board, str(error))
                    num_lost += 1
                    if num_lost == _MAX_BOARDS_LOST:
                        msg = f"{num_lost} boards were lost: {error}"
                        raise JobLostError(msg) from error

    def _wait_for_one(self) -> TuningBoard:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._is_stopped or self._may_take())
                if self._free:
                    return self._free.pop()
                if self._is_stopped:
                    msg = "the tuner is closing"
                    raise DeviceError(msg)
                self._num_taking += 1
            board = None
            try:
                board = self._take_fit()
                return board
            except DeviceError as error:
                if not self._has_others():
                    raise
                logger.warning("one board fewer: %s", error)
            finally:
                self._taken(board)

    def _take_fit(self) -> TuningBoard:
        """Take a board; say why there is none if only those are there that were left out."""
        try:
            board = self._take(self._watch.reports.blame)
        except DeviceError as error:
            if self._left_out:
                raise self._none_left() from error
            raise
        if board.name in self._left_out:
            board.close()
            raise self._none_left()
        self._watch.reports.of(board.name)  # listed from now on
        return board

    def _none_left(self) -> DeviceUnavailableError:
        problems = "; ".join(f"{name}: {why}" for name, why in self._left_out.items())
        msg = f"no board is left to tune on ({problems})"
        return DeviceUnavailableError(msg, hint="mend the boards; a second run continues")

    def _may_take(self) -> bool:
        """Whether to take another board: at first, or when all were lost."""
        num_alive = len(self._all) + self._num_taking
        return num_alive + self._num_lost < self._count or num_alive == 0

    def _has_others(self) -> bool:
        """Whether a thread that got no board can do without: others are held, or may yet be."""
        with self._changed:
            return bool(self._all) or self._num_taking > 1

    def _taken(self, board: TuningBoard | None) -> None:
        with self._changed:
            self._num_taking -= 1
            if board is not None:
                self._all.append(board)
            else:
                self._num_lost += 1
                self._watch.miss()
            self._changed.notify_all()

    def forget(self, board: TuningBoard, reason: str) -> None:
        """Use a board no more."""
        self._watch.dismiss(board, reason)
        with self._changed:
            self._all.remove(board)
            self._num_lost += 1
            self._changed.notify_all()
        board.close()

    def stop(self) -> None:
        """Make calls under way fail, and hand out no more boards."""
        with self._changed:
            self._is_stopped = True
            boards = list(self._all)
            self._changed.notify_all()
        self._watch.stop()
        for board in boards:
            board.interrupt()

    def close(self) -> None:
        """Give all boards back; none may be held any more."""
        for board in self._all:
            board.close()
