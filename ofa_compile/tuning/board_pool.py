"""Boards that jobs take in turns; one that is lost is replaced when no other is left."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from ofa_compile.errors import BoardLostError, DeviceError
from ofa_compile.remote.session import ProgramResult

logger = logging.getLogger(__name__)

T = TypeVar("T")
# A job that costs so many boards is to blame itself.
_MAX_BOARDS_LOST = 2


class JobLostError(DeviceError):
    """A job lost every board that it was given to, as many as a job may cost."""


class TuningBoard(Protocol):
    """What a runner needs of `remote.session.Board`."""

    name: str

    def put(self, name: str, data: bytes) -> None:
        """Write a file on the board."""

    def get(self, name: str) -> bytes:
        """Read a file of the board."""

    def remove(self, name: str) -> None:
        """Remove a file of the board."""

    def run(self, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        """Run a program that was put there."""

    def interrupt(self) -> None:
        """Make a call that another thread waits for fail at once."""

    def close(self) -> None:
        """Give the board back."""


class BoardPool:
    """Holds boards until it is closed.

    Parameters
    ----------
    take_board
        Waits for a board and holds it; raises `DeviceError` if none can be had.
    count
        How many boards to hold at once, at most.
    """

    def __init__(self, take_board: Callable[[], TuningBoard], count: int) -> None:
        self._take, self._count = take_board, count
        self._free: list[TuningBoard] = []
        self._all: list[TuningBoard] = []
        self._num_taking = self._num_lost = 0
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

    def on_any(self, job: Callable[[TuningBoard], T]) -> T:
        """Do a job with one board, and again with another if that one is lost.

        Raises
        ------
        JobLostError
            If too many were lost with it.
        DeviceError
            If no board is left and none can be had.
        """
        for attempt in range(1, _MAX_BOARDS_LOST + 1):
            with self.held() as board:
                try:
                    return job(board)
                except BoardLostError as error:
                    self.forget(board, str(error))
                    reason = f"{attempt} boards were lost: {error}"
        raise JobLostError(reason)

    def _wait_for_one(self) -> TuningBoard:
        with self._changed:
            while not self._free:
                if self._is_stopped:
                    msg = "the tuner is closing"
                    raise DeviceError(msg)
                if self._may_take():
                    self._num_taking += 1
                    break
                self._changed.wait()
            else:
                return self._free.pop()
        try:
            board = self._take()
        except BaseException:
            self._taken(None)
            raise
        self._taken(board)
        return board

    def _may_take(self) -> bool:
        """Whether to take another board: at first, or when all were lost."""
        num_alive = len(self._all) + self._num_taking
        return num_alive + self._num_lost < self._count or num_alive == 0

    def _taken(self, board: TuningBoard | None) -> None:
        with self._changed:
            self._num_taking -= 1
            if board is not None:
                self._all.append(board)
            self._changed.notify_all()

    def forget(self, board: TuningBoard, reason: str) -> None:
        """Use a board no more."""
        logger.warning("board %s: %s", board.name, reason)
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
        for board in boards:
            board.interrupt()

    def close(self) -> None:
        """Give all boards back; none may be held any more."""
        for board in self._all:
            board.close()
