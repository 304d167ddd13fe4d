"""Runtimes in processes of their own, asked in turns: none can take the others down with it.

A process lives for the whole run, so what it imports is imported once. One that gives no answer in
time is killed, one that dies is started again for the next network; a runtime that does so twice is
given up. What fails in the ordinary way, such as for want of memory, fails for one network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu_runtimes import environment_of

from ofa_compile.errors import TuningError
from ofa_compile.tuning.worker import Worker, WorkerFailure

TURN_S = 0.06
MOST_FAILURES = 2
_LEAST_S = 1.0
_OVER = "no time left"
_HERE = Path(__file__).resolve().parent


class PeerError(Exception):
    """A runtime did not do what it was asked; says why."""


class OutOfTimeError(PeerError):
    """The run's time is over: not the runtime's fault."""


@dataclass(frozen=True)
class TimeLimits:
    """How long a runtime may take for one answer, and when (`time.monotonic`) the run ends."""

    request_s: float
    deadline: float

    def left(self) -> float:
        """Return the seconds left."""
        return self.deadline - time.monotonic()

    def is_over(self) -> bool:
        """Whether too little is left to ask for anything."""
        return self.left() < _LEAST_S


class Peer:
    """One runtime in a process of its own; use it in one thread only.

    Parameters
    ----------
    name
        Of the runtime.
    limits
        How long to wait for it.
    most_failures
        How often it may die or hang before it is given up; None for ever.
    """

    def __init__(
        self, name: str, limits: TimeLimits, *, most_failures: int | None = MOST_FAILURES
    ) -> None:
        self.name = name
        self._limits, self._most_failures = limits, most_failures
        paths = [str(_HERE), str(_HERE.parent), os.environ.get("PYTHONPATH", "")]
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment_of(name)}
        self._worker = Worker("gpu_worker", variables)
        self._failures = 0

    def ask(self, do: str, /, *, share: float = 1.0, **fields: Any) -> dict[str, Any]:
        """Have something done, and return the answer.

        Parameters
        ----------
        do
            What `gpu_worker` is to do.
        share
            Of the time for an answer, how much it may take.
        fields
            Arguments of it.

        Raises
        ------
        OutOfTimeError
            If the run's time is over, or ends before there is an answer.
        PeerError
            If the runtime fails, dies or hangs.
        """
        if self._most_failures is not None and self._failures >= self._most_failures:
            message = f"given up after it died or hung {self._failures} times"
            raise PeerError(message)
        left, allowed = self._limits.left(), share * self._limits.request_s
        if self._limits.is_over():
            raise OutOfTimeError(_OVER)
        request = {"do": do, "runtime": self.name, **fields}
        found: dict[str, Any] = {}
        try:
            for reply in self._worker.call(request, min(left, allowed)):
                found |= reply
        except TuningError as error:
            # What it still holds of the device, nobody knows.
            self._worker.retire()
            raise PeerError(str(error)[:500]) from error
        except WorkerFailure as failure:
            if failure.is_timeout and left < allowed:
                raise OutOfTimeError(_OVER) from failure
            self._failures += 1
            raise PeerError(str(failure)[-500:]) from failure
        return found

    def close(self) -> None:
        """End the process, whatever it does."""
        self._worker.close()


Turns = dict[str, dict[str, list[float]]]
"""Runtime -> `device_ms` and `end_to_end_ms` -> the median of every round."""


def rounds(
    peers: Mapping[str, Peer], count: int, limits: TimeLimits
) -> tuple[Turns, dict[str, str]]:
    """Give every runtime one turn a round, in turning order, until the rounds or the time are over.

    Returns
    -------
    The median of each turn, and why runtimes dropped out.
    """
    turns: Turns = {name: {"device_ms": [], "end_to_end_ms": []} for name in peers}
    failed: dict[str, str] = {}
    order = list(peers.items())
    for number in range(count):
        if number > 0 and limits.is_over():
            break
        for name, peer in order[:: -1 if number % 2 else 1]:
            if name in failed:
                continue
            try:
                for what, medians in turns[name].items():
                    found = peer.ask("turn", what=what, seconds=TURN_S)
                    medians.append(float(np.median(found["ms"])))
            except OutOfTimeError:
                continue
            except PeerError as error:
                failed[name] = str(error)
    for name, found in turns.items():
        if not found["end_to_end_ms"]:
            failed.setdefault(name, _OVER)
    return {name: found for name, found in turns.items() if name not in failed}, failed
