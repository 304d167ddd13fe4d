"""The report's figures as files: CSV with the standard library, PNG and SVG with matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ofa_compile.errors import MissingDependencyError, UserInputError

_SIZE_INCHES = (7.0, 4.2)
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "axes.edgecolor": "#9aa4af",
    "legend.frameon": False,
    "font.size": 9,
    # The same document gives the same SVG.
    "svg.hashsalt": "ofa-compile",
}
_PREDICTED, _MEASURED = "#1f63c6", "#b4530a"
_MAX_BARS = 20
_COLUMNS = {
    "points": (
        "hash", "accuracy", "accuracy_std", "cost", "cost_std", "macs", "num_parameters",
        "size_bytes", "roofline_share", "mark",
    ),
    "blocks": ("label", "ms", "kind", "roofline_share"),
}  # fmt: skip
_TABLES = {
    "points": "front",
    "blocks": "blocks",
    "verified": "verified",
    "latency_pairs": "latency",
    "energies": "energy",
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
                columns = _COLUMNS.get(key, tuple(rows[0]))
                written.append(_write_csv(folder / f"{name}.csv", columns, rows))
        for number, curve in enumerate(document["learning_curves"], start=1):
            columns = (curve["x_label"], curve["y_label"])
            pairs = zip(curve["x"], curve["y"], strict=True)
            rows = [dict(zip(columns, pair, strict=True)) for pair in pairs]
            written.append(_write_csv(folder / f"learning-curve-{number}.csv", columns, rows))
    except OSError as error:
        message = f"cannot write figures to {folder}: {error.strerror}"
        raise UserInputError(message) from error
    return written


def write_figures(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what the page shows, as PNG and SVG: only figures for which there is data.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    UserInputError
        If the folder cannot be written.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "PNG and SVG figures need matplotlib"
        raise MissingDependencyError(message, hint="pip install 'ofa-compile[plots]'") from error
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with rc_context(_STYLE):
            for name, draw in _drawings(document).items():
                figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
                draw(figure.subplots())
                for suffix, metadata in (("png", None), ("svg", {"Date": None})):
                    path = folder / f"{name}.{suffix}"
                    figure.savefig(path, dpi=150, metadata=metadata)
                    written.append(path)
    except OSError as error:
        message = f"cannot write figures to {folder}: {error.strerror}"
        raise UserInputError(message) from error
    return written


def _drawings(document: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
    """Return what draws each figure that there is data for, by the figure's name."""
    drawings: dict[str, Callable[[Any], None]] = {}
    if document["points"]:
        drawings["front"] = partial(_front, document)
        drawings["blocks"] = partial(_blocks, document)
    if document["latency_pairs"]:
        drawings["latency"] = partial(_latency, document["latency_pairs"])
    if document["tuning"]:
        drawings["tuning"] = partial(_tuning, document["tuning"])
    for number, curve in enumerate(document["learning_curves"], start=1):
        drawings[f"learning-curve-{number}"] = partial(_curve, curve)
    return drawings


def _front(document: Mapping[str, Any], axes: Any) -> None:
    """Draw the front with its uncertainty, and what was measured of it."""
    points = document["points"]
    costs = [point["cost"] for point in points]
    top1 = [100 * point["accuracy"] for point in points]
    spread = [100 * (point["accuracy_std"] or 0.0) for point in points]
    low = [value - std for value, std in zip(top1, spread, strict=True)]
    high = [value + std for value, std in zip(top1, spread, strict=True)]
    axes.fill_between(costs, low, high, color=_PREDICTED, alpha=0.14, linewidth=0)
    axes.plot(costs, top1, ".", color=_PREDICTED, label="searched")
    measured = document["verified"] if document["cost_is_latency"] else []
    if measured:
        accuracies = [100 * item["accuracy"] for item in measured]
        times = [item["measured_ms"] for item in measured]
        axes.plot(times, accuracies, "s", color=_MEASURED, label="with measured latency")
        axes.legend()
    axes.set(xlabel=document["cost_label"], ylabel="accuracy, % (prediction)")


def _blocks(document: Mapping[str, Any], axes: Any) -> None:
    """Draw the time of each block of the knee, with its share of the arithmetic peak."""
    points = document["points"]
    point = next((point for point in points if point["mark"] == "knee"), points[-1])
    blocks = [document["blocks"][place] for place in point["blocks"]]
    colors = {"estimate": _PREDICTED, "measurement": _MEASURED}
    bars = axes.barh(
        [f"{block['name']}  {block['what']}" for block in blocks],
        [1e3 * block["ms"] for block in blocks],
        color=[colors[block["kind"]] for block in blocks],
    )
    axes.bar_label(bars, [f"{block['roofline_share']:.0%}" for block in blocks], padding=3)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    kinds = " and ".join(sorted({block["kind"] for block in blocks}))
    axes.set(
        xlabel=f"µs ({kinds}); share of the arithmetic peak", title=f"Blocks of {point['hash']}"
    )


def _latency(pairs: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Draw predicted over measured latency with bands of two deviations."""
    for is_winner, color in ((False, _PREDICTED), (True, _MEASURED)):
        shown = [pair for pair in pairs if pair["is_winner"] == is_winner]
        bands = [2 * (pair["relative_std"] or 0.0) * pair["predicted_ms"] for pair in shown]
        measured = [pair["measured_ms"] for pair in shown]
        predicted = [pair["predicted_ms"] for pair in shown]
        axes.errorbar(measured, predicted, yerr=bands, fmt=".", color=color)
    times = [pair["measured_ms"] for pair in pairs]
    ends = (min(times), max(times))
    axes.plot(ends, ends, linestyle="--", linewidth=1, color="#5b6672")
    axes.set(xlabel="measured, ms", ylabel="predicted, ms")


def _tuning(workloads: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Draw the largest gains of tuning."""
    shown = [item for item in workloads if item["gain"] is not None][:_MAX_BARS]
    axes.barh(
        [item["workload"] for item in shown], [item["gain"] for item in shown], color=_MEASURED
    )
    axes.axvline(1.0, color="#5b6672", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=5)
    axes.set(xlabel="time of the default / time of the best (measurement)")


def _curve(curve: Mapping[str, Any], axes: Any) -> None:
    """Draw one learning curve."""
    axes.plot(curve["x"], curve["y"], marker="o", color=_PREDICTED)
    axes.set_ylim(bottom=0)
    axes.set(title=curve["name"], xlabel=curve["x_label"], ylabel=curve["y_label"])


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path
