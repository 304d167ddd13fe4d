"""What tuning needs of boards and of a program that tells how fast one is, and what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ofa_compile.measurement.board_reports import BoardReport
from ofa_compile.remote.session import ProgramResult


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


class BoardReference(Protocol):
    """A program whose time says how fast a board is now."""

    def put_on(self, board: TuningBoard) -> None:
        """Write it to a board."""

    def time_us(self, board: TuningBoard) -> float:
        """Run it there.

        Raises
        ------
        BoardLeftOutError
            If the board cannot run it, or computes something else.
        """


@dataclass(kw_only=True)
class TuningReport(BoardReport):
    """What one board did for a tuner.

    Attributes
    ----------
    reference_us
        Its time for the reference when it was looked at last.
    num_drifts
        How often its speed changed, and a job was measured again.
    """

    reference_us: float | None = None
    num_drifts: int = 0
