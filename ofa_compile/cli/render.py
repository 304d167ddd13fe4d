"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ofa_compile.progress import ProgressCallback, no_progress

_LINE_INTERVAL_S = 10.0


class HasDict(Protocol):
    """Anything with a JSON-ready view."""

    def to_dict(self) -> dict[str, Any]:
        """Return the view."""


class Output:
    """One command's output channel.

    Parameters
    ----------
    as_json
        Print one JSON document on stdout instead of text.
    quiet
        No progress and no notes.
    verbose
        1 shows what the library logs at INFO, 2 at DEBUG.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.as_json = as_json
        self._quiet = quiet
        level = logging.ERROR if quiet else logging.WARNING
        level = (level, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s: %(message)s")

    def note(self, text: str) -> None:
        """Write one line for the reader on stderr, unless quiet."""
        if not self._quiet:
            sys.stderr.write(f"{text}\n")

    def result(self, document: Mapping[str, Any], text: str) -> None:
        """Print the command's result: `document` under ``--json``, otherwise `text`."""
        if self.as_json:
            print(json.dumps(document, indent=2, sort_keys=False, default=_jsonable))
        else:
            print(text)
        sys.stdout.flush()

    def report(self, document: Mapping[str, Any]) -> None:
        """Print a flat result: one line per entry, or the document under ``--json``."""
        rows = [(key.replace("_", " "), value) for key, value in document.items()]
        width = max((len(key) for key, _ in rows), default=0)
        self.result(document, "\n".join(f"{key:{width}}  {_cell(value)}" for key, value in rows))

    def shows_dry_run(self, options: HasDict, dry_run: bool) -> bool:
        """Under ``--dry-run`` print the resolved options; at ``-v`` log them."""
        if dry_run:
            self.report(options.to_dict())
        else:
            logging.getLogger(__name__).info("options: %s", options.to_dict())
        return dry_run

    @contextlib.contextmanager
    def working(self) -> Iterator[ProgressCallback]:
        """Give a progress callback; meanwhile stray prints of libraries go to stderr."""
        with contextlib.redirect_stdout(sys.stderr), self._progress() as progress:
            yield progress

    @contextlib.contextmanager
    def _progress(self) -> Iterator[ProgressCallback]:
        if self._quiet:
            yield no_progress
        elif sys.stderr.isatty():
            with _progress_bars() as progress:
                yield progress
        else:
            yield _progress_lines(sys.stderr.write)


@contextlib.contextmanager
def _progress_bars() -> Iterator[ProgressCallback]:
    """Show one bar per stage, with the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def report(
            stage: str, done: int = 0, total: int | None = None, *, detail: str = ""
        ) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            elif done < bars.tasks[tasks[stage]].completed:
                bars.reset(tasks[stage])  # the stage runs once more
            shown = f"{stage} ({detail})" if detail else stage
            bars.update(tasks[stage], completed=done, total=total, description=shown)

        yield report


def _progress_lines(write: Callable[[str], object]) -> ProgressCallback:
    """Write a line when a stage starts or ends, and every few seconds in between."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    reached: dict[str, int] = {}

    def report(stage: str, done: int = 0, total: int | None = None, *, detail: str = "") -> None:
        now = time.monotonic()
        if done < reached.get(stage, 0):  # the stage runs once more
            del first[stage], last[stage]
        reached[stage] = done
        is_new = stage not in last
        if not is_new and done != total and now - last[stage] < _LINE_INTERVAL_S:
            return
        last[stage] = now
        spent = now - first.setdefault(stage, now)
        counted = f" {done}/{total}" if total else ""
        if total and spent and 0 < done < total:
            counted += f", {spent * (total - done) / done:.0f} s left"
        write(f"{stage}{counted}{f' ({detail})' if detail else ''}\n")

    return report


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows under a header; columns of numbers are right-aligned."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] is None for row in rows)
        for i in range(len(header))
    ]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in [list(header), *cells]
    ]
    return "\n".join(lines)


def percent(fraction: float, digits: int = 1) -> str:
    """Write a fraction as per cent."""
    return f"{100 * fraction:.{digits}f} %"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "none"
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"), default=_jsonable)
    return str(value)


def _jsonable(value: Any) -> Any:
    """Turn numpy scalars, arrays and paths into plain data."""
    for method in ("tolist", "to_dict"):
        if hasattr(value, method):
            return getattr(value, method)()
    return str(value)
