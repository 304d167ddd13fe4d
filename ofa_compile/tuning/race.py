"""From turns of candidates in shared rounds to times: a busy moment cancels in their ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

FINAL_ROUNDS = 2
"""Finalists run this many times the rounds again, so that nobody wins by luck."""
# Besides the first candidate.
_FINALISTS = 2


def relative_times(turns: Mapping[int, Sequence[float]]) -> dict[int, tuple[float, float]]:
    """Return time and spread of every candidate, as in `TuningRecord`.

    What counts is the median over rounds of its time over that of the first candidate.

    Parameters
    ----------
    turns
        Candidate -> microseconds in every round; all in the same rounds.
    """
    base = np.array(turns[min(turns)])
    scale = float(np.quantile(base, 0.25))
    found = {}
    for number, values in turns.items():
        ratios = np.array(values) / (base if number != min(turns) else np.median(base))
        low, high = np.quantile(ratios, [0.16, 0.84])
        median = float(np.median(ratios))
        found[number] = (scale * median, float(0.5 * (high - low) / median))
    return found


def choose_finalists(found: Mapping[int, tuple[float, float]]) -> list[int]:
    """Return the best candidates and the first one, in order; none of none."""
    if not found:
        return []
    order = sorted(found, key=lambda number: found[number][0])
    return sorted({min(found), *order[:_FINALISTS]})
