"""Tuning on our daemons on this machine, one of which is bad: the rest finish, and it is named."""

from __future__ import annotations

import dataclasses
import re
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from boards import BAD_OFFERS, Daemon
from unfortunate_kernels import built_job, write_kernels

from ofa_compile.bundle.manifest import describe_target
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.remote.program import acquire_target_board, count_free_boards
from ofa_compile.remote.session import Board, ProgramResult
from ofa_compile.tuning.board_runner import BoardRunner
from ofa_compile.tuning.jobs import TrialResult
from ofa_compile.tuning.local_runner import TimingPlan
from ofa_compile.tuning.tuning_board import TuningReport

NUM_JOBS = 4
PROBLEMS = {
    "dies": "lost",
    "hangs": "did not answer",
    "lies": "differs by 1.0e+00 of the largest value",
}


@pytest.fixture(autouse=True)
def _no_outliers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards that share two busy cores with each other are never alike."""
    monkeypatch.setattr("ofa_compile.measurement.roll_call.MAX_DEVIATION", 100.0)


def tune(target: TargetSpec, folder: Path) -> tuple[list[TrialResult], dict[str, TuningReport]]:
    """Return the results of some jobs, and what every board did."""
    write_kernels(folder, target)
    description = describe_target(target)
    take = partial(acquire_target_board, description)
    timing = TimingPlan(rounds=2, turn_us=50.0, timeout_s=0.1)
    runner = BoardRunner(target, take, count_free_boards(description), timing)
    try:
        jobs = [runner.submit(built_job(folder, ["right"])) for _ in range(NUM_JOBS)]
        results = [job.result(60)[0] for job in jobs]
    finally:
        runner.close()
    return results, {entry.board: entry for entry in runner.boards}


def assert_rest_finished(
    results: list[TrialResult], found: dict[str, TuningReport], name: str
) -> None:
    assert [result.status for result in results] == ["ok"] * NUM_JOBS
    assert {result.board for result in results} <= set(found) - {name}
    assert all(entry.problem is None for other, entry in found.items() if other != name)


@pytest.mark.parametrize("fault", PROBLEMS)
def test_tuning_finishes_without_a_bad_board(
    daemons: list[Daemon],
    target: TargetSpec,
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ofa_compile.remote.session._CALL_S", 3.0)
    monkeypatch.setattr("ofa_compile.tuning.board_runner._SETUP_S", 1.0)
    victim, struck = daemons[1], threading.Event()
    name = f"{target.runner.key}@{victim.endpoint}"
    run = Board.run

    def run_or_strike(board: Board, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        is_first = board.name == name and not struck.is_set()
        if is_first:
            struck.set()
            if fault != "lies":
                victim.strike(fault)
        result = run(board, command, limit_s=limit_s)
        if board.name != name or fault != "lies":
            return result
        said = re.sub(r"(?m)^time (\d+) .*", r"wrong \1 1.0 2e-05", result.output)
        return dataclasses.replace(result, output=said)

    monkeypatch.setattr(Board, "run", run_or_strike)
    try:
        results, found = tune(target, tmp_path)
    finally:
        victim.send(signal.SIGCONT)
    assert struck.is_set()
    assert_rest_finished(results, found, name)
    assert PROBLEMS[fault] in str(found[name].problem)


@pytest.mark.parametrize("fault", BAD_OFFERS)
def test_bad_board_that_the_tracker_offers_is_named(
    target: TargetSpec, bad_board: Callable[[str], str], tmp_path: Path, fault: str
) -> None:
    name = bad_board(fault)
    results, found = tune(target, tmp_path)
    assert_rest_finished(results, found, name)
    words = "cannot upload candidates" if fault == "resets" else f"cannot connect to board {name}: "
    assert words in str(found[name].problem)
