from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ofa_compile.errors import (
    BoardLostError,
    BuildError,
    DeviceError,
    DeviceUnavailableError,
    MeasurementError,
)
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.measurement.dataset import LatencyDataset
from ofa_compile.measurement.fleet import FleetReport, Workshop, measure_fleet
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.measurement.measure import MeasureConfig
from ofa_compile.measurement.sample_log import SampleLog
from ofa_compile.measurement.sampling import choose_architectures, reference_architecture
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space

SPACE = search_space("ofa_mbv3_cifar")
REFERENCE = reference_architecture(SPACE)
TARGET = load_target("arm64")
CONFIG = MeasureConfig(timing=TimingConfig(round_ms=1, warmup_ms=1))
ESTIMATOR = LatencyEstimator(TARGET)


class FakeBoard:
    """Times subnets by their estimate; `misbehave` may raise, hang or return times of its own."""

    def __init__(
        self,
        name: str,
        speed: float = 1.0,
        misbehave: Callable[[FakeBoard, Architecture], None] | None = None,
    ) -> None:
        self.name, self.speed, self.misbehave = name, speed, misbehave
        self.rng = np.random.default_rng(len(name))
        self.num_timed = 0
        self.is_held = False
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None:
        self.is_held = False


class FakeRunner:
    def __init__(self, architecture: Architecture, board: FakeBoard) -> None:
        self.architecture, self.board = architecture, board
        self.ms = float(ESTIMATOR.estimate([architecture])[0])
        if board.misbehave is not None and architecture != REFERENCE:
            board.misbehave(board, architecture)

    def time(self, repeats: int) -> np.ndarray:
        time.sleep(0.0002)  # lets the other boards have a turn
        noise = np.exp(0.002 * self.board.rng.normal(size=repeats))
        return self.ms / self.board.speed * noise

    def machine_facts(self) -> dict[str, Any]:
        return {"board": self.board.name}

    def close(self) -> None:
        pass


class Pool:
    """Stands in for the tracker: hands out boards that nobody holds."""

    def __init__(self, *boards: FakeBoard) -> None:
        self.boards = list(boards)
        self._lock = threading.Lock()

    def take(self, blame: Callable[[str, str], None]) -> FakeBoard:
        with self._lock:
            for board in self.boards:
                if not board.is_held:
                    board.is_held = True
                    return board
        message = "no board is free"
        raise DeviceUnavailableError(message)


def run(
    path: Path,
    *boards: FakeBoard,
    count: int = 8,
    build: Callable[[Architecture, Path], Architecture] = lambda architecture, folder: architecture,
    **options: Any,
) -> FleetReport:
    pool = Pool(*boards)
    workshop = Workshop(take_board=pool.take, build=build, deploy=FakeRunner)
    log = SampleLog(SPACE, TARGET, LatencyDataset(path / "latency.jsonl"), CONFIG)
    wanted = choose_architectures(SPACE, count)
    try:
        return measure_fleet(log, wanted, workshop, max(1, len(pool.boards)), **options)
    finally:
        assert not any(board.is_held for board in pool.boards)


def records(path: Path) -> list[Any]:
    return list(LatencyDataset(path / "latency.jsonl"))


def die(after: int) -> Callable[[FakeBoard, Architecture], None]:
    def misbehave(board: FakeBoard, architecture: Architecture) -> None:
        board.num_timed += 1
        if board.num_timed > after:
            message = f"board {board.name} was lost"
            raise BoardLostError(message)

    return misbehave


def by_name(report: FleetReport) -> dict[str, Any]:
    return {entry.board: entry for entry in report.boards}


def test_boards_share_the_work_and_the_scale(tmp_path: Path) -> None:
    """Boards that differ by some per cent agree on the latency, which is the median board's."""
    calls: list[int] = []
    boards = [FakeBoard("a", 0.95), FakeBoard("b", 1.0), FakeBoard("c", 1.05)]
    report = run(
        tmp_path, *boards, count=12, progress=lambda stage, done, total: calls.append(done)
    )
    assert (report.num_measured, report.num_failed, report.num_total) == (12, 0, 12)
    assert sum(entry.num_measured for entry in report.boards) == 12
    assert all(entry.num_measured > 0 and entry.problem is None for entry in report.boards)
    assert calls == list(range(13))
    anchor, *samples = records(tmp_path)
    assert anchor.role == "reference"
    assert {record.machine["board"] for record in samples} == {"a", "b", "c"}
    for record in samples:
        truth = float(ESTIMATOR.estimate([record.architecture])[0])
        assert record.median_ms == pytest.approx(truth, rel=0.01)
        expected = {"a": 1 / 0.95, "b": 1.0, "c": 1 / 1.05}[record.machine["board"]]
        assert record.drift == pytest.approx(expected - 1, abs=0.01)


def test_a_board_that_slows_down_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def tire(board: FakeBoard, architecture: Architecture) -> None:
        board.num_timed += 1
        board.speed = 1.0 if board.num_timed < 3 else 0.7

    report = run(tmp_path, FakeBoard("fresh"), FakeBoard("tired", misbehave=tire), count=12)
    found = by_name(report)
    assert abs(found["fresh"].drift) < 0.02
    assert found["tired"].drift == pytest.approx(1 / 0.7 - 1, abs=0.02)
    assert found["tired"].problem is None
    said = [m for m in caplog.messages if "as it joined" in m]
    assert said == ["board tired is 43% slower than as it joined"]
    for record in records(tmp_path)[1:]:
        truth = float(ESTIMATOR.estimate([record.architecture])[0])
        assert record.median_ms == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("after", [0, 2])
def test_work_of_a_dying_board_is_taken_over(tmp_path: Path, after: int) -> None:
    boards = [FakeBoard("a"), FakeBoard("b", misbehave=die(after)), FakeBoard("c")]
    report = run(tmp_path, *boards, count=10)
    assert (report.num_measured, report.num_failed) == (10, 0)
    found = by_name(report)
    assert found["b"].problem == "board b was lost"
    assert found["b"].num_measured == after
    assert found["a"].problem is None
    assert len({record.architecture.hash for record in records(tmp_path)[1:]}) == 10


def test_board_that_comes_back_goes_on(tmp_path: Path) -> None:
    def stumble(board: FakeBoard, architecture: Architecture) -> None:
        board.num_timed += 1
        if board.num_timed == 2:
            message = "the cable fell out"
            raise BoardLostError(message)

    board = FakeBoard("only", misbehave=stumble)
    report = run(tmp_path, board, count=5)
    assert report.num_measured == 5
    assert by_name(report)["only"].problem == "the cable fell out"


def test_all_boards_dying_is_an_error_that_names_them(tmp_path: Path) -> None:
    boards = [FakeBoard("a", misbehave=die(1)), FakeBoard("b", misbehave=die(2))]
    with pytest.raises(MeasurementError, match=r"\d subnets are left .*a: board a was lost; b: bo"):
        run(tmp_path, *boards, count=30)
    assert len(records(tmp_path)) == 4
    report = run(tmp_path, FakeBoard("c"), count=30)
    assert report.num_skipped >= 3
    assert report.num_total == 30


def test_no_board_at_all(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"8 subnets are left .*no board is free"):
        run(tmp_path)


def test_subnet_that_costs_two_boards_is_given_up(tmp_path: Path) -> None:
    victim = choose_architectures(SPACE, 8)[3]

    def poisoned(board: FakeBoard, architecture: Architecture) -> None:
        if architecture == victim:
            message = f"{board.name} rebooted"
            raise BoardLostError(message)

    boards = [FakeBoard("a", misbehave=poisoned), FakeBoard("b", misbehave=poisoned)]
    report = run(tmp_path, *boards)
    assert (report.num_measured, report.num_failed) == (7, 1)
    (failed,) = [record for record in records(tmp_path) if record.status == "failed"]
    assert failed.architecture == victim
    assert "rebooted" in failed.error


def test_board_that_only_returns_garbage_is_left_out(tmp_path: Path) -> None:
    def garbage(board: FakeBoard, architecture: Architecture) -> None:
        message = "returned 3 bytes of times.f64"
        raise DeviceError(message)

    boards = [FakeBoard("a"), FakeBoard("bad", misbehave=garbage), FakeBoard("c")]
    report = run(tmp_path, *boards, count=12)
    assert (report.num_measured, report.num_failed) == (12, 0)
    problem = by_name(report)["bad"].problem
    assert "left out: 3 failures in a row, last returned 3 bytes" in problem
    assert by_name(report)["a"].problem is None


@pytest.mark.parametrize("names", ["ab", "abd"])
def test_outlier_is_left_out_before_it_measures(tmp_path: Path, names: str) -> None:
    boards = [*map(FakeBoard, names), FakeBoard("hot", 0.6)]
    report = run(tmp_path, *boards, count=9)
    assert report.num_measured == 9
    hot = by_name(report).pop("hot")
    assert all(by_name(report)[name].problem is None for name in names)
    assert "left out: it is 67% slower than the others" in hot.problem
    assert hot.num_measured == 0
    assert hot.reference_ms > 0


def test_subnet_that_cannot_be_built_is_no_boards_fault(tmp_path: Path) -> None:
    victim = choose_architectures(SPACE, 8)[0]

    def build(architecture: Architecture, folder: Path) -> Architecture:
        assert folder.is_dir()
        if architecture == victim:
            message = "no registers left"
            raise BuildError(message)
        return architecture

    report = run(tmp_path, FakeBoard("a"), FakeBoard("b"), build=build)
    assert (report.num_measured, report.num_failed) == (7, 1)
    assert all(entry.problem is None for entry in report.boards)


def test_gives_up_when_everything_fails(tmp_path: Path) -> None:
    def refuse(board: FakeBoard, architecture: Architecture) -> None:
        message = "illegal instruction"
        raise DeviceError(message)

    boards = [FakeBoard("a", misbehave=refuse), FakeBoard("b", misbehave=refuse)]
    with pytest.raises(MeasurementError, match=r"subnets are left .*last illegal instruction"):
        run(tmp_path, *boards, count=20)


def test_gives_up_when_nothing_can_be_built(tmp_path: Path) -> None:
    def build(architecture: Architecture, folder: Path) -> Architecture:
        if architecture != REFERENCE:
            message = "no registers left"
            raise BuildError(message)
        return architecture

    with pytest.raises(MeasurementError, match=r"6 of 6 subnets failed.*no registers left"):
        run(tmp_path, FakeBoard("a"), FakeBoard("b"), count=20, build=build)


def test_bugs_are_not_swallowed(tmp_path: Path) -> None:
    def bug(board: FakeBoard, architecture: Architecture) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, FakeBoard("a"), FakeBoard("b", misbehave=bug))


def test_end_does_not_wait_for_a_board_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofa_compile.measurement.roll_call._PATIENCE_S", 0.2)
    released = threading.Event()

    class Slow(Pool):
        def take(self, blame: Callable[[str, str], None]) -> FakeBoard:
            try:
                return super().take(blame)
            except DeviceUnavailableError:
                released.wait(30)
                return super().take(blame)

    dead = FakeBoard("dead", misbehave=die(0))
    pool = Slow(FakeBoard("a"), dead)
    log = SampleLog(SPACE, TARGET, LatencyDataset(tmp_path / "latency.jsonl"), CONFIG)
    workshop = Workshop(take_board=pool.take, build=lambda found, _: found, deploy=FakeRunner)
    start = time.monotonic()
    report = measure_fleet(log, choose_architectures(SPACE, 4), workshop, 3)
    assert report.num_measured == 4
    assert time.monotonic() - start < 15
    released.set()


def test_interrupt_frees_boards_that_hang(tmp_path: Path) -> None:
    def hang(board: FakeBoard, architecture: Architecture) -> None:
        hanging.set()
        board.interrupted.wait(60)
        message = "interrupted"
        raise BoardLostError(message)

    hanging = threading.Event()

    def progress(stage: str, done: int = 0, total: int | None = None) -> None:
        if done == 2:
            hanging.wait(10)
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, FakeBoard("a"), FakeBoard("b", misbehave=hang), progress=progress)
    assert time.monotonic() - start < 10
    assert len([record for record in records(tmp_path) if record.role == "sample"]) == 2
