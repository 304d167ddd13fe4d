"""Runtimes timed in turns, and only while the machine gives all of its speed.

On a shared host a virtual machine's cores may for seconds lie on one physical core, or beside a
busy neighbour: then everything slows, each runtime by another factor. So the multiply-add peak of
as many threads as the runtimes have is measured between all turns, and a turn is taken again when
the peak on either side of it is not near the best seen. What comes and goes between two looks
stays unseen: with threads, compare the best turns too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fma_peak import FmaPeak
from numpy.typing import NDArray
from runtimes import Runtime

TURN_MS = 60.0
# With threads, those of the runtime before may go on spinning for longer than a turn.
PAUSE_S = 0.08
STEADY = 0.92
# A disturbance is waited for to end, so many times; a benchmark must end.
MAX_TRIES, MAX_WAIT_S = 8, 10.0
_IDLE_LOOP = (
    "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
)


@dataclass
class Turns:
    """What a number of rounds found, by runtime: arrays of shape (rounds,).

    `ms` has the median of each turn, `peaks` the GFLOP/s that all threads together could reach
    around it. `retaken` counts the turns that were disturbed and taken again.
    """

    ms: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    peaks: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    retaken: int = 0

    def against(self, name: str, ours: str) -> dict[str, Any]:
        """Return one runtime's times, and by how much ours is faster."""
        ratios = self.ms[name] / self.ms[ours]
        low, high = np.quantile(ratios, [0.16, 0.84])
        return {
            "best_ms": float(self.ms[name].min()),
            "median_ms": float(np.median(self.ms[name])),
            "speedup_best": float(self.ms[name].min() / self.ms[ours].min()),
            "speedup_median": float(np.median(ratios)),
            "speedup_16_percent": float(low),
            "speedup_84_percent": float(high),
            "rounds_ms": self.ms[name].round(5).tolist(),
        }


class Referee:
    """Watches the machine's speed between turns."""

    def __init__(self, peak: FmaPeak, threads: int) -> None:
        self.retaken = 0
        self._peak, self._threads = peak, threads
        self._best = self._last = self._look()

    def turn(self, item: Runtime, repeats: int) -> tuple[float, float]:
        """Return the median milliseconds of an undisturbed turn, and the peak around it."""
        for _ in range(MAX_TRIES):
            item.time(1)
            ms = float(np.median(item.time(repeats)))
            before, self._last = self._last, self._look()
            self._best = max(self._best, self._last)
            if min(before, self._last) >= STEADY * self._best:
                break
            self.retaken += 1
            waited = time.monotonic() + MAX_WAIT_S
            while self._last < STEADY * self._best and time.monotonic() < waited:
                self._last = self._look()
        return ms, (before + self._last) / 2

    def _look(self) -> float:
        if self._threads > 1:
            time.sleep(PAUSE_S)
        return self._peak.gflops(threads=self._threads)


def interleave(runtimes: list[Runtime], peak: FmaPeak, rounds: int, threads: int) -> Turns:
    """Give every runtime one turn per round."""
    repeats = {}
    for item in runtimes:
        item.time(5)
        repeats[item.name] = max(3, int(TURN_MS / np.median(item.time(5))))
    found: dict[str, list[tuple[float, float]]] = {item.name: [] for item in runtimes}
    referee = Referee(peak, threads)
    for number in range(rounds):
        # Every second round runs backwards: nobody always follows the same neighbour.
        for item in runtimes if number % 2 == 0 else reversed(runtimes):
            found[item.name].append(referee.turn(item, repeats[item.name]))
    turns = Turns(retaken=referee.retaken)
    for name, pairs in found.items():
        turns.ms[name], turns.peaks[name] = np.array(pairs).T
    return turns
