"""The report's figures as files: CSV with the standard library, PNG and SVG with matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa_compile.errors import MissingDependencyError, UserInputError

_SIZE_INCHES = (7.0, 4.2)
_FRONT_COLUMNS = (
    "hash", "accuracy", "accuracy_std", "cost", "cost_std", "macs", "num_parameters", "size_bytes",
    "mark",
)  # fmt: skip
_TABLES = {
    "points": "front",
    "verified": "verified",
    "latency_pairs": "latency",
    "tuning": "tuning",
}


def write_tables(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write every list of a report document that is not empty as CSV.

    Raises
    ------
    UserInputError
        If the folder cannot be written.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, name in _TABLES.items():
            rows = document[key]
            if rows:
                columns = _FRONT_COLUMNS if key == "points" else tuple(rows[0])
                written.append(_write_csv(folder / f"{name}.csv", columns, rows))
    except OSError as error:
        message = f"cannot write figures to {folder}: {error.strerror}"
        raise UserInputError(message) from error
    return written


def write_figures(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw the front, predicted over measured and the learning curves, as PNG and SVG.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    UserInputError
        If the folder cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "PNG and SVG figures need matplotlib"
        raise MissingDependencyError(message, hint="pip install 'ofa-compile[plots]'") from error
    drawn: dict[str, Any] = {}
    for name, draw in (("front", _front), ("latency", _latency)):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        if draw(figure.subplots(), document):
            drawn[name] = figure
    for number, curve in enumerate(document["learning_curves"], start=1):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.plot(curve["x"], curve["y"], marker="o")
        axes.set(title=curve["name"], xlabel=curve["x_label"], ylabel=curve["y_label"])
        drawn[f"learning-curve-{number}"] = figure
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            for suffix in ("png", "svg"):
                path = folder / f"{name}.{suffix}"
                figure.savefig(path, dpi=150)
                written.append(path)
    except OSError as error:
        message = f"cannot write figures to {folder}: {error.strerror}"
        raise UserInputError(message) from error
    return written


def _front(axes: Any, document: Mapping[str, Any]) -> bool:
    """Draw the front with what was measured of it; False if there is none."""
    points = document["points"]
    if not points:
        return False
    axes.plot(
        [p["cost"] for p in points], [100 * p["accuracy"] for p in points], ".", label="front"
    )
    measured = document["verified"] if document["cost_is_latency"] else []
    if measured:
        accuracies = [100 * item["accuracy"] for item in measured]
        axes.plot([m["measured_ms"] for m in measured], accuracies, "s", label="latency measured")
        axes.legend()
    axes.set(xlabel=document["cost_label"], ylabel="accuracy, % (prediction)")
    return True


def _latency(axes: Any, document: Mapping[str, Any]) -> bool:
    """Draw predicted over measured latency with bands of two deviations; False if there is none."""
    pairs = document["latency_pairs"]
    if not pairs:
        return False
    measured = [pair["measured_ms"] for pair in pairs]
    bands = [2 * (pair["relative_std"] or 0.0) * pair["predicted_ms"] for pair in pairs]
    axes.errorbar(measured, [pair["predicted_ms"] for pair in pairs], yerr=bands, fmt=".")
    ends = (min(measured), max(measured))
    axes.plot(ends, ends, linestyle="--", linewidth=1)
    axes.set(xlabel="measured, ms", ylabel="predicted, ms")
    return True


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path
