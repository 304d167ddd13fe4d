"""Compares boards of one kind before they measure: they share one scale, so they must be alike.

The same bound says whether one board is still as fast as it was.
"""

from __future__ import annotations

import statistics
import threading

# Boards of one kind differ by some per cent; one that throttles or is another model by far more.
MAX_DEVIATION = 0.15
_MIN_TO_JUDGE = 3
# For boards that somebody else may have taken, and for boards that are still being prepared.
_PATIENCE_S = 5.0
_LIMIT_S = 120.0


def deviation(time_ms: float, usual_ms: float) -> str | None:
    """Say how far a time is from the usual one; None if that is within what boards may differ."""
    share = time_ms / usual_ms - 1.0
    if abs(share) <= MAX_DEVIATION:
        return None
    return f"{abs(share):.0%} {'slower' if share > 0 else 'faster'}"


class RollCall:
    """Collects each board's time for the reference and judges it by the others'.

    Parameters
    ----------
    num_places
        How many boards are hoped for. Those that do not come are not waited for long.
    """

    def __init__(self, num_places: int) -> None:
        self._num_hoped_for = num_places
        self._num_present = 0
        self._times: dict[str, float] = {}
        self._changed = threading.Condition()

    def arrive(self) -> None:
        """Say that a board is there and will report or withdraw."""
        with self._changed:
            self._num_present += 1

    def report(self, board: str, reference_ms: float) -> None:
        """Tell a board's time and wait for the others, not without end."""
        with self._changed:
            self._times[board] = reference_ms
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._times) >= self._num_hoped_for, _PATIENCE_S)
            self._changed.wait_for(lambda: len(self._times) >= self._num_present, _LIMIT_S)

    def update(self, board: str, reference_ms: float) -> None:
        """Replace a board's time by one that was taken later."""
        with self._changed:
            self._times[board] = reference_ms

    def withdraw(self, *, has_arrived: bool) -> None:
        """Say that one board fewer will report."""
        with self._changed:
            self._num_hoped_for -= 1
            self._num_present -= has_arrived
            self._changed.notify_all()

    @property
    def median_ms(self) -> float:
        """Median of the boards' times."""
        with self._changed:
            return statistics.median(self._times.values())

    def objection(self, board: str, reference_ms: float) -> str | None:
        """Say why a board is unlike the others; None if it is like them, or nobody can tell."""
        with self._changed:
            # Its own too: of three boards, the odd one would distort the median of the other two.
            times = {**self._times, board: reference_ms}
        if len(times) < _MIN_TO_JUDGE:
            return None
        median_ms = statistics.median(times.values())
        difference = deviation(reference_ms, median_ms)
        if difference is None:
            return None
        return (
            f"it is {difference} than the others: {reference_ms:.4g} ms for the reference, "
            f"the boards' median is {median_ms:.4g} ms"
        )
