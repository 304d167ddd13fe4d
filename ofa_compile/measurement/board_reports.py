"""What each board did in a run, and why it was given up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BoardReport:
    """What is said of a board whatever it was used for.

    Attributes
    ----------
    board
        Its name.
    problem
        Why it was given up, or None.
    """

    board: str
    problem: str | None = None


Report = TypeVar("Report", bound=BoardReport)


class BoardReports(Generic[Report]):
    """The reports of all boards that were offered; for several threads.

    Parameters
    ----------
    kind
        What to make a report of.
    """

    def __init__(self, kind: type[Report]) -> None:
        self._kind = kind
        self._reports: dict[str, Report] = {}

    def of(self, board: str) -> Report:
        """Return a board's report, a new one at first."""
        return self._reports.setdefault(board, self._kind(board=board))

    def blame(self, board: str, reason: str) -> None:
        """Say why a board is given up."""
        logger.warning("board %s: %s", board, reason)
        self.of(board).problem = reason

    @property
    def listed(self) -> tuple[Report, ...]:
        """All of them, in the order of the boards' names."""
        return tuple(self._reports[name] for name in sorted(self._reports))
