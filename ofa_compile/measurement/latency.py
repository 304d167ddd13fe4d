"""Time a subnet so that the drift of a busy machine cancels: interleaved with a reference.

Each round runs reference, subnet, reference. The subnet's time over the mean of its two neighbours
does not change when the whole machine slows down for a while; the median of these ratios, times
the reference's own time, is the latency. Rounds go on until the confidence interval of the median
is narrow enough, or the time is up.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import MeasurementError

_Z95 = 1.959964


class Runner(Protocol):
    """Something on a device that can be timed."""

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Run `repeats` times and return the milliseconds of each run, of shape (repeats,)."""


class LoadedSeveralTimes:
    """One network in several places of memory, which take turns.

    Where a network's pages happen to lie makes it about one per cent faster or slower for as long
    as it is loaded; whoever uses it gets another place each time. A turn in one place leaves the
    caches as runs without others would: its first run, which finds them full of another place, is
    not counted.

    Parameters
    ----------
    runners
        The network, each time loaded anew. Those with a `close` method are closed.
    """

    def __init__(self, runners: Sequence[Runner]) -> None:
        self._runners = tuple(runners)
        self._turns = itertools.cycle(self._runners)

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Run `repeats` times and return the milliseconds of each run, of shape (repeats,)."""
        runner = next(self._turns)
        runner.time(1)
        return runner.time(repeats)

    def close(self) -> None:
        """Unload all of them."""
        for runner in self._runners:
            close = getattr(runner, "close", None)
            if close is not None:
                close()


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """How long and how exactly to time one subnet.

    Attributes
    ----------
    ci_target
        Stop when half of the 95 % confidence interval is below this fraction of the median.
    max_seconds
        Stop after this time in any case; the result then says that it did not converge.
    min_rounds, max_rounds
        Fewer rounds have no usable confidence interval; more are never run.
    round_ms
        Wall time that one turn (of the subnet or of the reference) should take.
    warmup_ms
        Wall time to spend before the first round, to fill caches and raise the clock.
    """

    ci_target: float = 0.01
    max_seconds: float = 5.0
    min_rounds: int = 9
    max_rounds: int = 200
    round_ms: float = 20.0
    warmup_ms: float = 50.0


@dataclass(frozen=True, kw_only=True)
class LatencyMeasurement:
    """The figures of one timed subnet; see `LatencyRecord` for their meaning."""

    median_ms: float
    p95_ms: float
    spread: float
    ci_half_width: float
    num_runs: int
    num_rounds: int
    drift: float
    is_converged: bool


class Reference:
    """A network that runs beside every other, so that all of them share one scale.

    Parameters
    ----------
    runner
        The reference network.
    anchor_ms
        Its time on the quiet machine. Measured on construction when not given.
    config
        How much to run.
    """

    def __init__(
        self, runner: Runner, *, anchor_ms: float | None = None, config: TimingConfig | None = None
    ) -> None:
        self.config = config or TimingConfig()
        self.runner = runner
        self._repeats = _warm_up(runner, self.config)
        self.anchor_ms = self._measure_anchor() if anchor_ms is None else anchor_ms

    def turn(self) -> float:
        """Run one turn of the reference and return its median in milliseconds."""
        return float(np.median(_timed(self.runner, self._repeats)))

    def _measure_anchor(self) -> float:
        """Return the reference's median over a number of turns."""
        return float(np.median([self.turn() for _ in range(2 * self.config.min_rounds + 1)]))


def measure_latency(
    runner: Runner, reference: Reference, config: TimingConfig | None = None
) -> LatencyMeasurement:
    """Time `runner` in rounds between turns of `reference`.

    Parameters
    ----------
    runner
        The subnet.
    reference
        The reference network on the same device.
    config
        How long and how exactly; the reference's own if not given.

    Returns
    -------
    The figures, corrected for drift.

    Raises
    ------
    MeasurementError
        If the runner returns times that are no positive numbers.
    """
    config = config or reference.config
    deadline = time.monotonic() + config.max_seconds
    repeats = _warm_up(runner, config)
    before = reference.turn()
    anchors, ratios, runs = [before], list[float](), list[NDArray[np.float64]]()
    half_width = math.inf
    while len(ratios) < config.max_rounds:
        times = _timed(runner, repeats)
        after = reference.turn()
        # The mean of both neighbours cancels a drift that is linear over the round.
        scale = 0.5 * (before + after)
        ratios.append(float(np.median(times)) / scale)
        runs.append(times / scale)
        anchors.append(after)
        before = after
        if len(ratios) >= config.min_rounds:
            half_width = median_ci_half_width(np.array(ratios))
            if half_width <= config.ci_target or time.monotonic() > deadline:
                break
    return _summarise(
        np.array(ratios), np.concatenate(runs), anchors, reference, half_width, config
    )


def median_ci_half_width(values: NDArray[np.float64]) -> float:
    """Return half of the 95 % confidence interval of the median, as a fraction of the median.

    The interval lies between order statistics, so no shape of the distribution is assumed.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    offset = 0.5 * _Z95 * math.sqrt(count)
    low = max(0, math.floor(0.5 * (count - 1) - offset + 0.5))
    high = count - 1 - low
    return float(0.5 * (ordered[high] - ordered[low]) / np.median(ordered))


def _summarise(
    ratios: NDArray[np.float64],
    runs: NDArray[np.float64],
    anchors: list[float],
    reference: Reference,
    half_width: float,
    config: TimingConfig,
) -> LatencyMeasurement:
    """Turn ratios to the reference into milliseconds."""
    median = float(np.median(ratios))
    low, high = np.quantile(ratios, [0.16, 0.84])
    return LatencyMeasurement(
        median_ms=median * reference.anchor_ms,
        p95_ms=float(np.quantile(runs, 0.95)) * reference.anchor_ms,
        spread=float(0.5 * (high - low) / median),
        ci_half_width=half_width,
        num_runs=len(runs),
        num_rounds=len(ratios),
        drift=float(np.median(anchors)) / reference.anchor_ms - 1.0,
        is_converged=half_width <= config.ci_target,
    )


def _warm_up(runner: Runner, config: TimingConfig) -> int:
    """Run until the caches are warm; return how many runs make up one turn."""
    spent, fastest = 0.0, math.inf
    for _ in range(1000):
        times = _timed(runner, 2)
        spent += float(times.sum())
        fastest = min(fastest, float(times.min()))
        if spent >= config.warmup_ms:
            break
    return max(3, min(1000, math.ceil(config.round_ms / fastest)))


def _timed(runner: Runner, repeats: int) -> NDArray[np.float64]:
    """Run and check what came back."""
    times = np.asarray(runner.time(repeats), dtype=np.float64)
    if times.shape != (repeats,) or not np.isfinite(times).all() or (times <= 0).any():
        msg = f"the runner was asked for {repeats} times and returned {times!r}"
        raise MeasurementError(msg)
    return times
