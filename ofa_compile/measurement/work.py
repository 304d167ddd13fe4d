"""The subnets that several boards share out among themselves."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from ofa_compile.space.architecture import Architecture


@dataclass
class Task:
    """A subnet to measure.

    Attributes
    ----------
    architecture
        The subnet.
    failed_on
        Boards on which it failed, or which were lost with it.
    num_failures
        How often that happened.
    """

    architecture: Architecture
    failed_on: set[str] = field(default_factory=set)
    num_failures: int = 0

    def fail(self, board: str) -> None:
        """Note a failure."""
        self.failed_on.add(board)
        self.num_failures += 1


class WorkList:
    """Hands out each task once, and again to another board if it comes back."""

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self._waiting = [Task(architecture) for architecture in architectures]
        self._changed = threading.Condition()
        self._num_out = 0
        self._boards: set[str] = set()
        self._is_stopped = False

    def join(self, board: str) -> None:
        """Count a board as one that takes tasks."""
        with self._changed:
            self._boards.add(board)

    def leave(self, board: str) -> None:
        """Count it no longer; others may then try what failed on them."""
        with self._changed:
            self._boards.discard(board)
            self._changed.notify_all()

    def take(self, board: str) -> Task | None:
        """Wait for a task that has not failed on this board; None when nothing is left to do."""
        with self._changed:
            while not self._is_stopped:
                for number, task in enumerate(self._waiting):
                    # With all other boards gone, the same one has to do.
                    if board not in task.failed_on or self._boards <= task.failed_on:
                        self._num_out += 1
                        return self._waiting.pop(number)
                if not self._waiting and not self._num_out:
                    return None
                self._changed.wait()
            return None

    def give_back(self, task: Task) -> None:
        """Return a task that is not done."""
        with self._changed:
            self._waiting.append(task)
            self._num_out -= 1
            self._changed.notify_all()

    def finish(self) -> None:
        """Say that a task taken before is done."""
        with self._changed:
            self._num_out -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        """Hand out nothing more, and wake those who wait."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    @property
    def is_stopped(self) -> bool:
        """Whether nothing more is handed out."""
        with self._changed:
            return self._is_stopped

    @property
    def num_left(self) -> int:
        """Tasks that nobody has done."""
        with self._changed:
            return len(self._waiting) + self._num_out
