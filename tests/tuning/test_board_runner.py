"""Tuning on boards: what is measured there, and what becomes of boards and jobs that fail."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from unfortunate_kernels import (
    assert_judged,
    built_job,
    run_kernels,
    write_kernels,
    write_typed_kernels,
)

from ofa_compile.errors import BoardLostError, DeviceUnavailableError, MissingDependencyError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.remote.session import Blame, ProgramResult
from ofa_compile.tuning.board_runner import BoardRunner
from ofa_compile.tuning.jobs import TrialResult
from ofa_compile.tuning.local_runner import TimingPlan

HOST = load_target("host")
# A program that another thread is writing while one forks cannot be started: "text file busy".
FORK = threading.Lock()
TIMING = TimingPlan(rounds=4, turn_us=50.0, timeout_s=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels")
    try:
        write_kernels(path, HOST)
    except MissingDependencyError as err:
        pytest.skip(str(err))
    return path


class FolderBoard:
    """A board that is a folder of this machine; `before_run` may make it fail.

    With `turn_us`, times are not those of this machine: what it returns for each run, in order.
    """

    def __init__(
        self,
        folder: Path,
        before_run: Callable[[FolderBoard], None] = lambda board: None,
        turn_us: Callable[[int], float] | None = lambda run: 10.0,
    ) -> None:
        folder.mkdir()
        self.name, self.folder, self.before_run = folder.name, folder, before_run
        self.turn_us = turn_us
        self.commands: list[str] = []
        self.is_closed = self.is_cut = False

    def put(self, name: str, data: bytes) -> None:
        with FORK:
            (self.folder / name).write_bytes(data)
            (self.folder / name).chmod(0o755)

    def run(self, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        self.before_run(self)
        self.commands.append(command[0])
        words = [str(self.folder / command[0]), *command[1:]]
        with FORK:
            process = subprocess.Popen(
                words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            return ProgramResult(status=-signal.SIGKILL, is_timed_out=True, output=output)
        if self.turn_us is not None:
            turn = self.turn_us(len(self.commands))
            output = re.sub(r"(?m)^(time \d+) .*", rf"\1 {turn}", output)
        return ProgramResult(status=process.returncode, is_timed_out=False, output=output)

    def interrupt(self) -> None:
        self.is_cut = True

    def close(self) -> None:
        self.is_closed = True


def runner_on(*boards: FolderBoard, num_boards: int | None = None) -> BoardRunner:
    waiting = list(boards)

    def take(blame: Blame) -> FolderBoard:
        if not waiting:
            msg = "no board is free"
            raise DeviceUnavailableError(msg)
        return waiting.pop(0)

    return BoardRunner(HOST, take, num_boards or len(boards), TIMING)


def dies(board: FolderBoard) -> None:
    msg = f"board {board.name} was struck by lightning"
    raise BoardLostError(msg)


def test_each_failure_is_told_apart_and_the_others_are_timed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofa_compile.tuning.board_runner._SETUP_S", 1.0)
    board = FolderBoard(tmp_path / "board", turn_us=None)
    runner = runner_on(board)
    monkeypatch.setattr("ofa_compile.measurement.roll_call.MAX_DEVIATION", 100.0)
    symbols = ("right", "off_by_a_little", "skips_one", "overruns", "crashes", "hangs", "slow")
    results = run_kernels(runner, folder, *symbols)
    runner.close()
    statuses = [result.status for result in results]
    assert statuses == ["ok", "wrong", "wrong", "wrong", "crash", "timeout", "ok"]
    right, off, skipping, overrunning, crashing, hanging, slow = results
    assert right.time_us is not None
    assert slow.time_us is not None
    assert 0 < 2 * right.time_us < slow.time_us
    assert off.error == "differs by 1.0e-02 of the largest value; 2e-05 is allowed"
    assert "nan" in str(skipping.error)
    assert overrunning.error == "wrote behind the end of its output"
    assert crashing.error == "the program ended with -11 on board"
    assert "no end within" in str(hanging.error)
    assert board.is_closed


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_bytes_and_halves_are_compared_as_such(dtype: str, tmp_path: Path) -> None:
    write_typed_kernels(tmp_path, HOST, dtype)
    runner = runner_on(FolderBoard(tmp_path / "board"))
    assert_judged(runner, tmp_path, dtype)
    runner.close()


def test_work_of_a_dying_board_is_repeated_on_another(folder: Path, tmp_path: Path) -> None:
    weak, strong = FolderBoard(tmp_path / "weak", dies), FolderBoard(tmp_path / "strong")
    runner = runner_on(weak, strong)
    jobs = [runner.submit(built_job(folder, ["right"])) for _ in range(4)]
    results = [job.result(60)[0] for job in jobs]
    assert [(result.status, result.board) for result in results] == [("ok", strong.name)] * 4
    runner.close()
    assert (weak.commands, strong.commands) == ([], ["candidates", "reference"] * 4)
    assert {entry.board: entry.problem for entry in runner.boards} == {
        "weak": "board weak was struck by lightning",
        "strong": None,
    }
    assert weak.is_closed
    assert strong.is_closed


def test_a_board_that_comes_back_is_taken_again(folder: Path, tmp_path: Path) -> None:
    runner = runner_on(FolderBoard(tmp_path / "a", dies), FolderBoard(tmp_path / "b"), num_boards=1)
    assert run_kernels(runner, folder, "right")[0].status == "ok"
    runner.close()


def test_a_job_that_costs_two_boards_is_a_crash(folder: Path, tmp_path: Path) -> None:
    boards = [FolderBoard(tmp_path / name, dies) for name in "ab"]
    runner = runner_on(*boards)
    (result,) = run_kernels(runner, folder, "right")
    runner.close()
    assert result.status == "crash"
    assert "2 boards were lost: board" in str(result.error)


def test_without_a_board_there_is_no_tuning(folder: Path, tmp_path: Path) -> None:
    runner = runner_on(FolderBoard(tmp_path / "a", dies), num_boards=1)
    with pytest.raises(DeviceUnavailableError, match="no board is free"):
        run_kernels(runner, folder, "right")
    runner.close()


def test_closing_cuts_what_is_under_way(folder: Path, tmp_path: Path) -> None:
    started = threading.Event()

    def hangs(board: FolderBoard) -> None:
        started.set()
        while not board.is_cut:
            threading.Event().wait(0.01)
        dies(board)

    board = FolderBoard(tmp_path / "a", hangs)
    runner = runner_on(board)
    job = runner.submit(built_job(folder, ["right"]))
    assert started.wait(30)
    runner.close()
    assert board.is_closed
    assert job.exception() is not None


def test_what_cannot_be_linked_did_not_build(folder: Path, tmp_path: Path) -> None:
    runner = runner_on(FolderBoard(tmp_path / "a"))
    (result,) = run_kernels(runner, folder, "missing")
    runner.close()
    assert result.status == "build"
    assert "undefined" in str(result.error)


def test_a_job_whose_only_candidate_is_wrong(folder: Path, tmp_path: Path) -> None:
    runner = runner_on(FolderBoard(tmp_path / "a"))
    (result,) = run_kernels(runner, folder, "off_by_a_little")
    runner.close()
    assert (result.status, result.board) == ("wrong", "a")


@pytest.mark.parametrize(
    "said",
    ["", "start 0\ntime 0 10\n", "start x\ntime 0 nan\n" * 4, "time 1 10\n" * 4, "time 0 0\n" * 4],
)
def test_a_board_that_talks_nonsense_is_lost(folder: Path, tmp_path: Path, said: str) -> None:
    liar, good = FolderBoard(tmp_path / "liar"), FolderBoard(tmp_path / "good")

    def lie(command: Sequence[str], *, limit_s: float) -> ProgramResult:
        return ProgramResult(status=0, is_timed_out=False, output=said)

    liar.run = lie  # type: ignore[method-assign]
    runner = runner_on(liar, good, num_boards=1)
    (result,) = run_kernels(runner, folder, "right")
    runner.close()
    assert (result.status, result.board) == ("ok", "good")
    (problem,) = [entry.problem for entry in runner.boards if entry.board == "liar"]
    assert problem == f"board liar cannot run candidates (0): {said}"


def run_together(runner: BoardRunner, folder: Path, count: int) -> list[TrialResult]:
    """Run as many jobs of one candidate as there are boards, so that each gets one."""
    jobs = [runner.submit(built_job(folder, ["right"])) for _ in range(count)]
    return [job.result(60)[0] for job in jobs]


def test_an_outlier_is_left_out_and_its_job_repeated(folder: Path, tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=30)

    def waits(board: FolderBoard) -> None:
        if not board.commands:
            together.wait()

    speeds = {"a": 10.0, "b": 11.0, "hot": 14.0}
    boards = [
        FolderBoard(tmp_path / name, waits, lambda run, us=us: us) for name, us in speeds.items()
    ]
    runner = runner_on(*boards)
    results = run_together(runner, folder, 3)
    runner.close()
    assert {result.board for result in results} <= {"a", "b"}
    # All on the scale of the median board.
    assert [result.time_us for result in results] == pytest.approx([11.0] * 3)
    found = {entry.board: entry for entry in runner.boards}
    assert found["hot"].problem == (
        "left out: it is 27% slower than the others: 0.014 ms for the reference, the boards' median"
        " is 0.011 ms"
    )
    assert found["hot"].reference_us == pytest.approx(14.0)
    assert found["a"].problem is found["b"].problem is None


def test_a_job_is_measured_again_when_its_board_has_drifted(folder: Path, tmp_path: Path) -> None:
    # Runs: job, reference; job, three looks at the reference; job again, reference.
    board = FolderBoard(tmp_path / "a", turn_us=lambda run: 10.0 if run < 3 else 13.0)
    runner = runner_on(board)
    results = [run_kernels(runner, folder, "right")[0] for _ in range(2)]
    runner.close()
    job, look = "candidates", "reference"
    assert board.commands == [job, look, job, look, look, look, job, look]
    assert [result.time_us for result in results] == pytest.approx([10.0, 10.0])
    (report,) = runner.boards
    assert (report.num_drifts, report.reference_us, report.problem) == (1, 13.0, None)


def test_a_board_that_keeps_changing_is_left_out(folder: Path, tmp_path: Path) -> None:
    restless = FolderBoard(tmp_path / "restless", turn_us=lambda run: 1.3**run)
    runner = runner_on(restless, FolderBoard(tmp_path / "steady"))
    assert len(run_together(runner, folder, 8)) == 8
    runner.close()
    assert restless.is_closed
    found = {entry.board: entry for entry in runner.boards}
    assert found["restless"].num_drifts == 3
    words = "left out: it does not keep its speed: 3 times in a row, last 186% slower than before"
    assert words in str(found["restless"].problem)
    assert found["steady"].problem is None


def test_the_last_board_may_change(folder: Path, tmp_path: Path) -> None:
    runner = runner_on(FolderBoard(tmp_path / "a", turn_us=lambda run: 1.3**run))
    assert [run_kernels(runner, folder, "right")[0].status for _ in range(2)] == ["ok", "ok"]
    runner.close()
    (report,) = runner.boards
    assert "it does not keep its speed: 3 times in a row" in str(report.problem)


def test_a_board_that_was_left_out_is_not_taken_again(folder: Path, tmp_path: Path) -> None:
    """The tracker offers it again when all others are lost."""

    def dies_later(board: FolderBoard) -> None:
        if len(board.commands) == 4:
            dies(board)

    def unlike(run: int) -> float:
        return 10.0 if run < 3 else 100.0

    boards = [FolderBoard(tmp_path / name, dies_later) for name in "ab"]
    hot, back = FolderBoard(tmp_path / "hot", turn_us=unlike), FolderBoard(tmp_path / "again")
    back.name = "hot"
    runner = runner_on(hot, *boards, back, num_boards=3)
    jobs = [runner.submit(built_job(folder, ["right"])) for _ in range(9)]
    words = r"no board is left to tune on \(hot: left out: it is 900% slower than the others"
    with pytest.raises(DeviceUnavailableError, match=words):
        [job.result(60) for job in jobs]
    runner.close()
    assert back.is_closed
    assert not back.commands


def test_a_board_that_cannot_run_the_reference_is_left_out(folder: Path, tmp_path: Path) -> None:
    boards = [FolderBoard(tmp_path / "other_model"), FolderBoard(tmp_path / "good")]
    runs_on_good = threading.Event()
    run = FolderBoard.run

    def faulty(command: Sequence[str], *, limit_s: float) -> ProgramResult:
        assert runs_on_good.wait(30)
        return ProgramResult(status=-signal.SIGILL, is_timed_out=False, output="start 0\n")

    def good(command: Sequence[str], *, limit_s: float) -> ProgramResult:
        try:
            return run(boards[1], command, limit_s=limit_s)
        finally:
            if command[0] == "reference":
                runs_on_good.set()

    boards[0].run, boards[1].run = faulty, good  # type: ignore[method-assign]
    runner = runner_on(*boards)
    results = run_together(runner, folder, 2)
    runner.close()
    assert [(result.status, result.board) for result in results] == [("ok", "good")] * 2
    (problem,) = [entry.problem for entry in runner.boards if entry.board == "other_model"]
    assert problem == (
        "left out: it cannot run the reference, which another board can: it ended with -4"
    )


def test_what_a_liar_computes_first_is_not_believed(folder: Path, tmp_path: Path) -> None:
    """Nobody has computed anything right yet: it waits for one who does."""
    has_lied = threading.Event()
    good = FolderBoard(tmp_path / "good", lambda board: assert_set(has_lied))
    liar = FolderBoard(tmp_path / "liar")

    def lie(command: Sequence[str], *, limit_s: float) -> ProgramResult:
        has_lied.set()
        return ProgramResult(status=0, is_timed_out=False, output="start 0\nwrong 0 1 2e-05\n")

    liar.run = lie  # type: ignore[method-assign]
    runner = runner_on(liar, good)
    results = run_together(runner, folder, 2)
    runner.close()
    assert [(result.status, result.board) for result in results] == [("ok", "good")] * 2
    (problem,) = [entry.problem for entry in runner.boards if entry.board == "liar"]
    assert "which another board can: differs by 1.0e+00 of the largest value" in str(problem)


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)


@pytest.mark.slow
def test_tuning_goes_on_when_a_board_dies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TVM's tracker, three of its servers on loopback, and one that is killed in the middle."""
    from boards import LocalTracker, StockBoard

    from ofa_compile.cli.app import run_app
    from ofa_compile.remote.session import Board
    from ofa_compile.tuning.database import TuningDatabase

    name = "x86-64" if load_target("x86-64").is_native else "arm64"
    text = (Path(__file__).parents[2] / "targets" / f"{name}.toml").read_text(encoding="utf-8")
    head, _, rest = text.partition("[runner]")
    tracker = LocalTracker()
    servers = [StockBoard("tuned", tracker.endpoint) for _ in range(3)]
    run, killed = Board.run, threading.Event()

    def run_or_die(board: Board, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        if str(servers[0].endpoint) in board.name and not killed.is_set():
            killed.set()
            servers[0].kill()
        return run(board, command, limit_s=limit_s)

    monkeypatch.setattr(Board, "run", run_or_die)
    # Boards that share two busy cores with each other are never alike.
    monkeypatch.setattr("ofa_compile.measurement.roll_call.MAX_DEVIATION", 100.0)
    path = tmp_path / "loopback.toml"
    where = f'kind = "rpc"\ntracker = "{tracker.endpoint}"\nkey = "tuned"'
    path.write_text(f"{head}[runner]\n{where}\n[{rest.partition(chr(10) + '[')[2]}")
    command = ["tune", "--target", str(path), "--resolution", "24", "--max-trials", "12"]
    try:
        tracker.wait_for("tuned", 3)
        assert run_app([*command, "--workspace", str(tmp_path / "w"), "--json"]) == 0
    finally:
        for server in servers:
            server.kill()
        tracker.stop()
    report = json.loads(capsys.readouterr().out)
    assert killed.is_set()
    assert report["trials"]["ok"] == report["num_trials"] == 12
    records = list(TuningDatabase(Path(report["database"])))
    assert {record.kind for record in records} == {"measurement"}
    boards = {entry.pop("board"): entry for entry in report["boards"]}
    counts = Counter(record.board for record in records)
    assert {name: entry["num_trials"] for name, entry in boards.items()} == {
        name: counts[name] for name in boards
    }
    assert sum(counts.values()) == 12
    (lost,) = [entry for entry in boards.values() if entry["problem"] is not None]
    assert "lost" in lost["problem"]
    assert (lost["num_trials"], lost["reference_us"]) == (0, None)
    assert all(entry["reference_us"] > 0 for entry in boards.values() if entry is not lost)
