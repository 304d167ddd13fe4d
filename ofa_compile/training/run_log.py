"""The log of a training run: JSON lines, and TensorBoard's format on request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import MissingDependencyError

__all__ = ["RunLog"]


class RunLog:
    """Appends one record per step, after dropping those that will be repeated.

    Parameters
    ----------
    folder
        Where ``log.jsonl`` is, and ``tensorboard/``.
    step
        Last step to keep.
    tensorboard
        Write TensorBoard's format too.
    on
        Whether to write at all: only one process of a run does.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False, on: bool = True):
        self._stream, self._board = None, None
        if not on:
            return
        if tensorboard:
            self._board = _summary_writer(folder / "tensorboard", step)
        path = folder / "log.jsonl"
        _trim(path, step)
        self._stream = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._board is not None:
            self._board.close()

    def write(self, record: dict[str, Any]) -> None:
        """Append the record of a step."""
        if self._stream is not None:
            self._stream.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["step"])

    def flush(self) -> None:
        """Bring what was written to the disk."""
        if self._stream is not None:
            self._stream.flush()


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as err:
        message = "--tensorboard needs the package tensorboard"
        raise MissingDependencyError(message, hint="pip install tensorboard") from err
    # Steps after the checkpoint are repeated: TensorBoard hides what was written of them.
    return SummaryWriter(str(folder), purge_step=step + 1)


def _trim(path: Path, step: int) -> None:
    """Drop log records after `step`, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            continue
    with replacing(path) as staging:
        staging.write_text("".join(kept), encoding="utf-8")
