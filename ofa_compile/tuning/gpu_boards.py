"""The GPUs of boards behind TVM's RPC: a network of candidates is a program there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ofa_compile.errors import BoardLostError, DeviceUnavailableError
from ofa_compile.tuning.board_pool import BoardPool, JobLostError, TuningBoard
from ofa_compile.tuning.gpu_program import (
    BUDGET_MS,
    ROUNDS,
    TIMEOUT_S,
    CandidateNetwork,
    times_of,
)
from ofa_compile.tuning.gpu_runner import Results
from ofa_compile.tuning.jobs import TrialResult, on_board
from ofa_compile.tuning.output_error import difference

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PROGRAM, _EXPECTED, _TIMES = "gpu_candidates", "expected", "times.f64"
# How the program ends where no candidate is to blame.
_NO_DEVICE = 5


class GpuBoards:
    """Runs networks on whichever board is free.

    Parameters
    ----------
    take_board
        Waits for a board and holds it; raises `DeviceError` if none can be had.
    num_boards
        How many to hold at once.
    timeout_s
        A network that takes so long hangs.
    """

    takes_programs = True

    def __init__(
        self,
        take_board: Callable[[], TuningBoard],
        num_boards: int,
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.num_parallel = num_boards
        self._timeout_s = timeout_s
        self._boards = BoardPool(take_board, num_boards)

    def run(self, network: CandidateNetwork) -> Results | TrialResult:
        """Return the result of every candidate, or how the network of all of them failed.

        Raises
        ------
        DeviceError
            If no board is left and none can be had, or one has no GPU for the target.
        """
        try:
            return self._boards.on_any(lambda board: self._run_on(board, network))
        except JobLostError as error:
            return TrialResult("crash", str(error))

    def stop(self) -> None:
        """Make calls under way fail, and take no more boards."""
        self._boards.stop()

    def close(self) -> None:
        """Give all boards back."""
        self._boards.close()

    def _run_on(self, board: TuningBoard, network: CandidateNetwork) -> Results | TrialResult:
        board.put(_PROGRAM, network.path.read_bytes())
        expected = network.expected()
        board.put(_EXPECTED, expected.astype(expected.dtype.newbyteorder("<")).tobytes())
        words = (ROUNDS, BUDGET_MS, expected.itemsize, *network.outputs)
        command = [_PROGRAM, _EXPECTED, _TIMES, *map(str, words)]
        done = board.run(command, limit_s=self._timeout_s)
        if done.is_timed_out:
            return TrialResult(
                "timeout", f"no end within {self._timeout_s:.0f} s", board=board.name
            )
        said = done.output.strip()[-300:]
        if done.status == _NO_DEVICE:
            msg = f"board {board.name} has no GPU that would do: {said}"
            raise DeviceUnavailableError(msg, hint="install its driver on the board")
        if done.status != 0:
            error = f"the program ended with {done.status}: {said}"
            return TrialResult("crash", error, board=board.name)
        errors = _errors(done.output)
        wrong = {number: difference(error, expected.dtype.name) for number, error in errors.items()}
        if set(wrong) != set(range(len(network.outputs))):
            msg = f"board {board.name} said of {len(wrong)} candidates what they compute, of "
            msg += f"{len(network.outputs)}: {done.output[:200]}"
            raise BoardLostError(msg)
        right = [number for number, text in wrong.items() if text is None]
        results = {
            **{n: TrialResult("wrong", text) for n, text in wrong.items() if text is not None},
            **times_of(self._times(board, network), network.num_launches, right),
        }
        return on_board(results, board.name)

    @staticmethod
    def _times(board: TuningBoard, network: CandidateNetwork) -> NDArray[np.float64]:
        data = board.get(_TIMES)
        # So that an old file can never be taken for a new one.
        board.remove(_TIMES)
        row = 8 * sum(network.num_launches)
        if not data or len(data) % row:
            msg = f"board {board.name} returned {len(data)} bytes of times, no multiple of {row}"
            raise BoardLostError(msg)
        return np.frombuffer(data, "<f8").reshape(-1, row // 8)


def _errors(output: str) -> dict[int, float]:
    """Read what the program says of each candidate; anything else it prints is passed over."""
    found = {}
    for line in output.splitlines():
        match line.split():
            case ["error", number, error]:
                found[int(number)] = float(error)
    return found
