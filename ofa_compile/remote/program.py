"""A bundle's executable on a board: the same interface as here, for running and for timing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ofa_compile.errors import BoardLostError
from ofa_compile.hardware.board_address import board_address
from ofa_compile.remote.glue import build_glue
from ofa_compile.remote.session import (
    MAX_BOARDS,
    Blame,
    Board,
    acquire_board,
    log_failure,
    unique_name,
)
from ofa_compile.remote.tracker import Tracker
from ofa_compile.runtime.program import Program, check_end


class BoardProgram(Program):
    """An executable uploaded to a board that is held.

    Parameters
    ----------
    board
        The board; it must outlive the program.
    path
        The executable of a bundle.
    classes
        Logits per input.
    """

    # Nothing that runs on a board takes longer for one input.
    input_limit_s = 60.0

    def __init__(self, board: Board, path: Path, classes: int) -> None:
        self.board, self.path, self.classes = board, path, classes
        data = path.read_bytes()
        self._name = unique_name(data)
        board.put(self._name, data)

    def exchange(
        self, arguments: list[str], files: dict[str, bytes], result: str, limit_s: float
    ) -> bytes:
        """Run it in the board's folder.

        Raises
        ------
        DeviceError
            If the program fails, crashes or hangs; `BoardLostError` if the board does.
        """
        for name, data in files.items():
            self.board.put(name, data)
        done = self.board.run([self._name, *arguments], limit_s=limit_s)
        who = f"{self.path.name} on board {self.board.name}"
        check_end(who, None if done.is_timed_out else done.status, done.output, limit_s)
        data = self.board.get(result)
        # So that an old file can never be taken for a new one.
        self.board.remove(result)
        return data

    def refuse(self, result: str, num_bytes: int, wanted: str) -> NoReturn:
        """Blame the board: what its program writes has the right size."""
        msg = f"board {self.board.name} returned {num_bytes} bytes of {result}, not {wanted} values"
        raise BoardLostError(msg)

    def close(self) -> None:
        """Remove the executable from the board."""
        if not self.board.is_lost:
            self.board.remove(self._name)


def acquire_target_board(target: Mapping[str, Any], blame: Blame = log_failure) -> Board:
    """Take a board of a target; the caller closes it.

    Parameters
    ----------
    target
        As `describe_target` wrote it.
    blame
        Told of boards that the tracker offered and that could not be taken.

    Raises
    ------
    DeviceUnavailableError
        If no board can be had.
    """
    address = board_address(target["runner"], target["name"])
    # Bundles from before compiler flags have none.
    flags = target.get("compiler_flags", ())
    arguments = (target["linkers"], target["arch"], target["name"], flags)
    return acquire_board(address, lambda: build_glue(*arguments), blame)


def count_free_boards(target: Mapping[str, Any]) -> int:
    """Return how many boards of a target are free now, at least 1.

    Raises
    ------
    DeviceUnavailableError
        If the tracker cannot be reached.
    """
    address = board_address(target["runner"], target["name"])
    if not address.is_tracker:
        return 1
    with Tracker(address.endpoint) as tracker:
        found = tracker.summary().get(address.key)
    return min(MAX_BOARDS, max(1, found.num_free if found else 0))


@contextlib.contextmanager
def board_program(target: Mapping[str, Any], path: Path, classes: int) -> Iterator[BoardProgram]:
    """Take a board of a target, with an executable on it, as `acquire_target_board` does."""
    with acquire_target_board(target) as board:
        yield BoardProgram(board, path, classes)
