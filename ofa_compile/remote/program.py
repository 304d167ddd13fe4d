"""A bundle's executable on a board: the same interface as here, for running and for timing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import BoardLostError, DeviceError
from ofa_compile.hardware.board_address import board_address
from ofa_compile.remote.glue import build_glue
from ofa_compile.remote.session import MAX_BOARDS, Board, acquire_board, unique_name
from ofa_compile.remote.tracker import Tracker

# Exit code of the executable when a logit is not finite; the logits are written all the same.
_EXIT_NOT_FINITE = 3
# Nothing that runs on a board takes longer for one input.
_S_PER_INPUT = 60.0
_S_PER_RUN = 2.0
_INPUT, _LOGITS, _TIMES = "input.f32", "logits.f32", "times.f64"


class BoardProgram:
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

    def __init__(self, board: Board, path: Path, classes: int) -> None:
        self.board, self.path, self.classes = board, path, classes
        data = path.read_bytes()
        self._name = unique_name(data)
        board.put(self._name, data)

    def run(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]:
        """Compute the logits of inputs of shape (N, 3, H, W).

        Returns
        -------
        float32 array of shape (N, classes).

        Raises
        ------
        DeviceError
            If the program fails, crashes or hangs; `BoardLostError` if the board does.
        """
        if len(x) == 0:
            return np.empty((0, self.classes), dtype=np.float32)
        self.board.put(_INPUT, np.ascontiguousarray(x, dtype="<f4").tobytes())
        arguments = ["--raw", _INPUT, "--logits", _LOGITS, "--threads", str(threads)]
        self._run(arguments, _S_PER_INPUT * len(x))
        values = self._read(_LOGITS, "<f4", len(x) * self.classes)
        return values.reshape(len(x), self.classes).astype(np.float32)

    def time(
        self, *, repeats: int, warmup: int = 3, threads: int = 1, limit_s: float | None = None
    ) -> NDArray[np.float64]:
        """Time runs on an input of noise, inside one process on the board.

        Parameters
        ----------
        repeats, warmup, threads
            Timed runs, untimed ones before them, and the threads of each.
        limit_s
            When to give up; a generous guess if None.

        Returns
        -------
        Milliseconds of each run, of shape (repeats,).

        Raises
        ------
        DeviceError
            As for `run`.
        """
        arguments = ["--benchmark", str(repeats), "--warmup", str(warmup), "--times", _TIMES]
        arguments += ["--threads", str(threads)]
        guess_s = _S_PER_INPUT + _S_PER_RUN * (repeats + warmup)
        self._run(arguments, guess_s if limit_s is None else limit_s)
        return self._read(_TIMES, "<f8", repeats).astype(np.float64)

    def close(self) -> None:
        """Remove the executable from the board."""
        if not self.board.is_lost:
            self.board.remove(self._name)

    def _run(self, arguments: list[str], limit_s: float) -> None:
        result = self.board.run([self._name, *arguments], limit_s=limit_s)
        where = f"{self.path.name} on board {self.board.name}"
        if result.is_timed_out:
            msg = f"{where} did not finish within {limit_s:.0f} s"
            raise DeviceError(msg)
        if result.status not in (0, _EXIT_NOT_FINITE):
            how = f"signal {-result.status}" if result.status < 0 else f"{result.status}"
            msg = f"{where} failed ({how}): {result.output.strip()[-2000:] or 'it printed nothing'}"
            raise DeviceError(msg)

    def _read(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        data = self.board.get(name)
        # So that an old file can never be taken for a new one.
        self.board.remove(name)
        if len(data) != count * np.dtype(dtype).itemsize:
            msg = (
                f"board {self.board.name} returned {len(data)} bytes of {name}, not {count} values"
            )
            raise BoardLostError(msg)
        return np.frombuffer(data, dtype)


def acquire_target_board(target: Mapping[str, Any]) -> Board:
    """Take a board of a target; the caller closes it.

    Parameters
    ----------
    target
        As `describe_target` wrote it.

    Raises
    ------
    DeviceUnavailableError
        If no board can be had.
    """
    address = board_address(target["runner"], target["name"])
    # Bundles from before compiler flags have none.
    flags = target.get("compiler_flags", ())
    arguments = (target["linkers"], target["arch"], target["name"], flags)
    return acquire_board(address, lambda: build_glue(*arguments))


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
