"""The GPUs of boards behind TVM's RPC: a network of candidates is a program there."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ofa_compile.errors import BoardLostError
from ofa_compile.tuning.board_pool import BoardPool, JobLostError, TakeBoard
from ofa_compile.tuning.board_watch import BoardLeftOutError
from ofa_compile.tuning.gpu_program import (
    BUDGET_MS,
    ROUNDS,
    TIMEOUT_S,
    CandidateNetwork,
    times_of,
)
from ofa_compile.tuning.jobs import Results, TrialResult
from ofa_compile.tuning.output_error import difference
from ofa_compile.tuning.tuning_board import TuningBoard, TuningReport

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
        As `BoardPool` takes it.
    num_boards
        How many to hold at once.
    timeout_s
        A network that takes so long hangs.
    """

    takes_programs = True

    def __init__(
        self,
        take_board: TakeBoard,
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
            If no board is left and none can be had, or none has a GPU for the target.
        """
        program = _NetworkProgram(network, self._timeout_s)
        try:
            return self._boards.on_any(program.run_new, partial(_Reference, network))
        except JobLostError as error:
            return TrialResult("crash", str(error))

    @property
    def reports(self) -> tuple[TuningReport, ...]:
        """What every board did."""
        return self._boards.reports

    def stop(self) -> None:
        """Make calls under way fail, and take no more boards."""
        self._boards.stop()

    def close(self) -> None:
        """Give all boards back."""
        self._boards.close()


class _NetworkProgram:
    """A network as files on a board; they are read at once, since its folder goes."""

    def __init__(
        self,
        network: CandidateNetwork,
        timeout_s: float,
        *,
        prefix: str = "",
        rounds: int = ROUNDS,
        budget_ms: float = BUDGET_MS,
    ) -> None:
        self._network, self._timeout_s = network, timeout_s
        expected = network.expected()
        self._arithmetic = network.arithmetic
        little_endian = expected.astype(expected.dtype.newbyteorder("<"))
        program, data = prefix + _PROGRAM, prefix + _EXPECTED
        self._files = {program: network.path.read_bytes(), data: little_endian.tobytes()}
        words = (rounds, budget_ms, expected.itemsize, *network.outputs)
        self._command = [program, data, _TIMES, *map(str, words)]

    def put_on(self, board: TuningBoard) -> None:
        """Write it to a board."""
        for name, data in self._files.items():
            board.put(name, data)

    def run_new(self, board: TuningBoard) -> Results | TrialResult:
        """Run it on a board that does not have it."""
        self.put_on(board)
        return self.run(board)

    def run(self, board: TuningBoard) -> Results | TrialResult:
        """Return the result of every candidate, or how all of them failed."""
        done = board.run(self._command, limit_s=self._timeout_s)
        if done.is_timed_out:
            return TrialResult("timeout", f"no end within {self._timeout_s:.0f} s")
        said = done.output.strip()[-300:]
        if done.status == _NO_DEVICE:
            msg = f"left out: it has no GPU that would do: {said}"
            raise BoardLeftOutError(msg, hint="install its driver on the board")
        if done.status != 0:
            return TrialResult("crash", f"the program ended with {done.status}: {said}")
        errors, num_outputs = _errors(done.output), len(self._network.outputs)
        wrong = {number: difference(error, self._arithmetic) for number, error in errors.items()}
        if set(wrong) != set(range(num_outputs)):
            msg = f"board {board.name} said of {len(wrong)} candidates what they compute, of "
            msg += f"{num_outputs}: {done.output[:200]}"
            raise BoardLostError(msg)
        right = [number for number, text in wrong.items() if text is None]
        return {
            **{n: TrialResult("wrong", text) for n, text in wrong.items() if text is not None},
            **times_of(self._times(board), self._network.num_launches, right),
        }

    def _times(self, board: TuningBoard) -> NDArray[np.float64]:
        data = board.get(_TIMES)
        # So that an old file can never be taken for a new one.
        board.remove(_TIMES)
        row = 8 * sum(self._network.num_launches)
        if not data or len(data) % row:
            msg = f"board {board.name} returned {len(data)} bytes of times, no multiple of {row}"
            raise BoardLostError(msg)
        times = np.frombuffer(data, "<f8").reshape(-1, row // 8)
        if not (np.isfinite(times) & (times >= 0)).all():
            msg = f"board {board.name} returned times that are none"
            raise BoardLostError(msg)
        return times


class _Reference:
    """One candidate of a network, which a board computed right."""

    def __init__(self, network: CandidateNetwork, number: int) -> None:
        self._number = number
        # A look at the clock need not be as exact as a comparison.
        self._program = _NetworkProgram(
            network, TIMEOUT_S, prefix="reference_", rounds=3, budget_ms=BUDGET_MS / 5
        )

    def put_on(self, board: TuningBoard) -> None:
        """Write it to a board."""
        self._program.put_on(board)

    def time_us(self, board: TuningBoard) -> float:
        """Run it there, or leave out a board that cannot."""
        found = self._program.run(board)
        result = found if isinstance(found, TrialResult) else found[self._number]
        if result.time_us is None:
            msg = f"left out: it cannot run the reference, which another can: {result.error}"
            raise BoardLeftOutError(msg)
        return result.time_us


def _errors(output: str) -> dict[int, float]:
    """Read what the program says of each candidate; anything else it prints is passed over."""
    found = {}
    for line in output.splitlines():
        with contextlib.suppress(ValueError):  # no number where one should be
            match line.split():
                case ["error", number, error]:
                    found[int(number)] = float(error)
    return found
