"""How library code tells a caller that long work moves on."""

from __future__ import annotations

from typing import Protocol


class ProgressCallback(Protocol):
    """Called at the start of a stage and after each finished part of it."""

    def __call__(
        self, stage: str, done: int = 0, total: int | None = None, *, detail: str = ""
    ) -> None:
        """Report that `done` of `total` parts of `stage` are finished (None: number unknown)."""


def no_progress(stage: str, done: int = 0, total: int | None = None, *, detail: str = "") -> None:
    """Ignore progress: the default of every `progress` parameter."""
