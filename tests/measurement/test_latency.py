from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from ofa_compile.errors import MeasurementError
from ofa_compile.measurement.latency import (
    LoadedSeveralTimes,
    Reference,
    TimingConfig,
    measure_latency,
    median_ci_half_width,
)

FAST = TimingConfig(round_ms=5, warmup_ms=5)


class Machine:
    """A machine whose speed changes while its own clock runs; no real time passes."""

    def __init__(
        self, slowdown: Callable[[float], float], noise: float = 0.0, seed: int = 0
    ) -> None:
        self.slowdown = slowdown
        self.noise = noise
        self.clock_ms = 0.0
        self.rng = np.random.default_rng(seed)


class FakeRunner:
    def __init__(self, machine: Machine, true_ms: float) -> None:
        self.machine, self.true_ms = machine, true_ms
        self.num_runs = 0

    def time(self, repeats: int) -> np.ndarray:
        times = np.empty(repeats)
        for i in range(repeats):
            jitter = np.exp(self.machine.noise * self.machine.rng.normal())
            times[i] = self.true_ms * self.machine.slowdown(self.machine.clock_ms) * jitter
            self.machine.clock_ms += times[i]
        self.num_runs += repeats
        return times


def test_quiet_machine_is_read_exactly_and_quickly() -> None:
    machine = Machine(lambda _: 1.0)
    runner = FakeRunner(machine, 2.0)
    result = measure_latency(runner, Reference(FakeRunner(machine, 1.0), config=FAST))
    assert result.median_ms == pytest.approx(2.0)
    assert result.p95_ms == pytest.approx(2.0)
    assert result.is_converged
    assert result.num_rounds == FAST.min_rounds
    assert result.drift == pytest.approx(0.0)


@pytest.mark.parametrize("seed", range(3))
def test_drift_cancels(seed: int) -> None:
    machine = Machine(lambda t: 1.0, noise=0.005, seed=seed)
    reference = Reference(FakeRunner(machine, 1.0), config=FAST)
    # The clock falls steadily to half of its speed while the subnet is measured.
    start = machine.clock_ms
    machine.slowdown = lambda t: 1.0 + min(1.0, (t - start) / 500)
    result = measure_latency(FakeRunner(machine, 3.0), reference)
    assert result.median_ms == pytest.approx(3.0, rel=0.02)
    assert result.drift > 0.05


def test_interrupts_do_not_move_the_median() -> None:
    machine = Machine(lambda t: 5.0 if (t // 3) % 20 == 0 else 1.0, noise=0.003)
    reference = Reference(FakeRunner(machine, 1.0), anchor_ms=1.0, config=FAST)
    result = measure_latency(FakeRunner(machine, 2.0), reference)
    assert result.median_ms == pytest.approx(2.0, rel=0.03)


def test_noise_asks_for_more_rounds_and_a_limit_ends_them() -> None:
    machine = Machine(lambda _: 1.0, noise=0.3)
    config = TimingConfig(round_ms=5, warmup_ms=5, max_rounds=30, ci_target=0.001)
    reference = Reference(FakeRunner(machine, 1.0), config=config)
    result = measure_latency(FakeRunner(machine, 1.0), reference, config)
    assert result.num_rounds == 30
    assert not result.is_converged
    assert result.ci_half_width > 0.001
    assert result.spread > 0


def test_time_limit_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(lambda _: 1.0, noise=0.3)
    monkeypatch.setattr(
        "ofa_compile.measurement.latency.time.monotonic", lambda: machine.clock_ms / 1e3
    )
    config = TimingConfig(round_ms=5, warmup_ms=5, max_seconds=0.5, ci_target=1e-6)
    reference = Reference(FakeRunner(machine, 1.0), config=config)
    start = machine.clock_ms
    measure_latency(FakeRunner(machine, 1.0), reference)
    assert machine.clock_ms - start < 700


def test_anchor_is_kept() -> None:
    machine = Machine(lambda _: 2.0)
    reference = Reference(FakeRunner(machine, 1.0), anchor_ms=1.0, config=FAST)
    result = measure_latency(FakeRunner(machine, 3.0), reference)
    assert result.median_ms == pytest.approx(3.0)
    assert result.drift == pytest.approx(1.0)


@pytest.mark.parametrize("times", [[0.0, 1.0], [np.nan, 1.0], [1.0], [-1.0, 1.0]])
def test_impossible_times_are_refused(times: list[float]) -> None:
    class Broken:
        def time(self, repeats: int) -> np.ndarray:
            return np.array(times)

    with pytest.raises(MeasurementError, match="asked for 2 times"):
        Reference(Broken(), config=FAST)


def test_confidence_interval_covers_the_median() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        values = np.exp(0.05 * rng.standard_t(3, size=25))
        half = median_ci_half_width(values) * np.median(values)
        covered += abs(np.median(values) - 1.0) <= 1.2 * half
    assert covered > 0.88 * 400
    assert median_ci_half_width(np.ones(7)) == 0.0


def test_a_network_loaded_several_times_takes_turns() -> None:
    class Place:
        def __init__(self, ms: float) -> None:
            self.ms, self.is_closed = ms, False
            self.asked: list[int] = []

        def time(self, repeats: int) -> np.ndarray:
            self.asked.append(repeats)
            return np.full(repeats, self.ms)

        def close(self) -> None:
            self.is_closed = True

    places = [Place(1.0), Place(2.0), Place(3.0)]
    several = LoadedSeveralTimes(places)
    assert [several.time(2).tolist() for _ in range(4)] == [
        [1.0] * 2,
        [2.0] * 2,
        [3.0] * 2,
        [1.0] * 2,
    ]
    # A run that is not counted comes first.
    assert places[0].asked == [1, 2, 1, 2]
    assert Reference(several, config=TimingConfig(round_ms=30)).anchor_ms == 2.0
    several.close()
    assert all(place.is_closed for place in places)
