"""A small scatter plot for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 60, 12


def scatter(
    points: Sequence[tuple[float, float]],
    marks: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """Draw points in a frame of characters, with the ranges of both axes beside it.

    Parameters
    ----------
    points
        (x, y) of each.
    marks
        One character for each point; later points cover earlier ones.
    x_label, y_label
        What the axes are.
    width, height
        Characters of the frame's inside.
    """
    columns = _places([x for x, _ in points], width)
    rows = _places([y for _, y in points], height)
    cells = [[" "] * width for _ in range(height)]
    for column, row, mark in zip(columns, rows, marks, strict=True):
        cells[height - 1 - row][column] = mark
    low_x, high_x = (f"{value:.4g}" for value in _range([x for x, _ in points]))
    low_y, high_y = (f"{value:.4g}" for value in _range([y for _, y in points]))
    margin = max(len(low_y), len(high_y))
    labels = [high_y, *[""] * (height - 2), low_y]
    lines = [f"{'':{margin}} {y_label}"]
    lines += [
        f"{label:>{margin}} |{''.join(row)}" for label, row in zip(labels, cells, strict=True)
    ]
    lines.append(f"{'':{margin}} +{'-' * width}")
    gap = max(1, width - len(low_x) - len(high_x) - len(x_label))
    before = " " * (gap // 2)
    after = " " * (gap - gap // 2)
    lines.append(f"{'':{margin}}  {low_x}{before}{x_label}{after}{high_x}")
    return "\n".join(line.rstrip() for line in lines)


def _range(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 0.0)


def _places(values: Sequence[float], size: int) -> list[int]:
    """Return where each value falls on an axis of `size` places."""
    low, high = _range(values)
    span = high - low or 1.0
    return [round((value - low) / span * (size - 1)) for value in values]
