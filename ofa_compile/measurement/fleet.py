"""Measure subnets on all boards of a kind at once; what one board fails at, another takes over.

Every board has the reference network beside its subnets, and its times are ratios to that; the
scale is the median board's. A board that dies, hangs, returns nonsense or is unlike the others is
named in the report, and the run finishes with the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ofa_compile.errors import BoardLostError, DeviceError, MeasurementError, OfaCompileError
from ofa_compile.measurement.board_reports import BoardReport, BoardReports
from ofa_compile.measurement.dataset import LatencyRecord
from ofa_compile.measurement.latency import Reference, Runner, measure_latency
from ofa_compile.measurement.measure import MeasureReport, check_failures, failure, report_of
from ofa_compile.measurement.roll_call import RollCall, deviation
from ofa_compile.measurement.sample_log import SampleLog
from ofa_compile.measurement.work import Task, WorkList
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space.architecture import Architecture

logger = logging.getLogger(__name__)
Built = TypeVar("Built")

# How often a board's place is filled again, by the same board or by another one.
_MAX_SESSIONS = 3
# A board that fails at one subnet after the other is given no more work.
_MAX_IN_A_ROW = 3
# A subnet that fails twice, or costs two boards, is to blame itself.
_MAX_FAILURES = 2
_POLL_S = 0.1
_STOP_S = 5.0


class FleetBoard(Protocol):
    """What a fleet needs of `remote.session.Board`."""

    name: str

    def interrupt(self) -> None:
        """Make a call that another thread waits for fail at once."""

    def close(self) -> None:
        """Give the board back."""


class BoardRunner(Runner, Protocol):
    """A subnet on a board."""

    def machine_facts(self) -> dict[str, Any]:
        """Return what the board says about itself now."""

    def close(self) -> None:
        """Remove it from the board."""


@dataclass(frozen=True, kw_only=True)
class Workshop(Generic[Built]):
    """How subnets come to boards.

    Attributes
    ----------
    take_board
        Waits for a board and holds it; raises `DeviceError` if none can be had. Is given what to
        call with name and reason of boards that were offered and could not be taken.
    build
        Makes something of an architecture that `deploy` can use, in a folder that lives as long.
        Called for one subnet at a time.
    deploy
        Puts that on a board and checks that it computes what it should.
    """

    take_board: Callable[[Callable[[str, str], None]], FleetBoard]
    build: Callable[[Architecture, Path], Built]
    deploy: Callable[[Built, Any], BoardRunner]


@dataclass(kw_only=True)
class MeasuringReport(BoardReport):
    """What one board did.

    Attributes
    ----------
    num_measured
        Subnets it measured.
    reference_ms
        Its time for the reference network, as it joined.
    drift
        By what share that time changed at most while it measured. Latencies are ratios to it, so
        they do not.
    """

    num_measured: int = 0
    reference_ms: float | None = None
    drift: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FleetReport(MeasureReport):
    """What a run of `measure_fleet` did; `boards` in the order of their names."""

    boards: tuple[MeasuringReport, ...]


def measure_fleet(
    log: SampleLog,
    wanted: list[Architecture],
    workshop: Workshop[Any],
    num_boards: int,
    *,
    progress: ProgressCallback = no_progress,
) -> FleetReport:
    """Measure on several boards until the data set holds all subnets; what it holds is kept.

    Parameters
    ----------
    log
        The data set, and under which conditions to measure.
    wanted
        The subnets.
    workshop
        How they come to boards.
    num_boards
        How many boards to take at once.
    progress
        Called after each subnet.

    Raises
    ------
    DeviceError
        If no board is left while there is work; what was measured is in the data set.
    MeasurementError
        If half of the subnets fail.
    """
    todo = [architecture for architecture in wanted if not log.is_done(architecture)]
    num_skipped = len(wanted) - len(todo)
    progress("measure", num_skipped, len(wanted))
    with tempfile.TemporaryDirectory(prefix="ofa-compile-measure-") as folder:
        fleet = _Fleet(log, todo, workshop, min(num_boards, max(1, len(todo))), Path(folder))
        if todo:
            fleet.run(lambda done: progress("measure", num_skipped + done, len(wanted)))
    report = report_of(log, fleet.done, num_skipped)
    return FleetReport(**dataclasses.asdict(report), boards=fleet.reports.listed)


class _Fleet:
    """One run of `measure_fleet`."""

    def __init__(
        self,
        log: SampleLog,
        todo: list[Architecture],
        workshop: Workshop[Any],
        num_boards: int,
        folder: Path,
    ) -> None:
        self.log, self.workshop, self.num_boards = log, workshop, num_boards
        self.work = WorkList(todo)
        self.done: list[LatencyRecord] = []
        self.reports = BoardReports(MeasuringReport)
        self._folder = folder
        self._roll_call = RollCall(num_boards)
        self._held: set[FleetBoard] = set()
        self._fatal: BaseException | None = None
        self._none_to_be_had: DeviceError | None = None
        # The compiler and PyTorch serve one thread at a time; the lock for everything else is held
        # for moments only.
        self._build_lock, self._lock = threading.Lock(), threading.Lock()
        self._report_progress: Callable[[int], None] = lambda done: None

    def run(self, report_progress: Callable[[int], None]) -> None:
        """Put a thread on each board and wait until the work is done."""
        self._report_progress = report_progress
        reference = self._build(self.log.reference_architecture)
        threads = [
            threading.Thread(target=self._attend, args=(reference,), name="board", daemon=True)
            for _ in range(self.num_boards)
        ]
        for thread in threads:
            thread.start()
        try:
            while self._is_under_way(threads):
                threads[0].join(_POLL_S)
                time.sleep(0 if threads[0].is_alive() else _POLL_S)
        finally:
            self._dismiss()
        if self._fatal is not None:
            raise self._fatal
        if self.work.num_left:
            raise self._no_board_left()

    def _is_under_way(self, threads: list[threading.Thread]) -> bool:
        """Tell whether there is something to wait for; a thread may only be waiting for a board."""
        is_done = self._fatal is not None or not self.work.num_left
        return not is_done and any(thread.is_alive() for thread in threads)

    def _dismiss(self) -> None:
        """Make all boards free again: in order where the work is done, otherwise at once."""
        self.work.stop()
        if self._fatal is None and not self.work.num_left:
            self._await_release()
        with self._lock:
            held = list(self._held)
        for board in held:
            board.interrupt()
        self._await_release()

    def _await_release(self) -> None:
        deadline = time.monotonic() + _STOP_S
        while self._held and time.monotonic() < deadline:
            time.sleep(0.01)

    def _attend(self, reference: Any) -> None:
        """Keep one board's place filled, in a thread of its own."""
        is_expected, has_arrived = True, False
        try:
            for _ in range(_MAX_SESSIONS):
                try:
                    board = self.workshop.take_board(self.reports.blame)
                except DeviceError as error:
                    self._none_to_be_had = error
                    return
                with self._holding(board):
                    if self.work.is_stopped:
                        return
                    try:
                        if is_expected:
                            self._roll_call.arrive()
                            has_arrived = True
                        runner = self.workshop.deploy(reference, board)
                        own = Reference(runner, config=self.log.config.timing)
                        if is_expected:
                            is_expected = False
                            self._roll_call.report(board.name, own.anchor_ms)
                        if self._admit(board, own, runner):
                            self._measure_on(board, own)
                        return
                    except DeviceError as error:
                        self.reports.blame(board.name, str(error))
                        if is_expected:  # the others need not wait for the next attempt
                            is_expected = False
                            self._roll_call.withdraw(has_arrived=True)
        except BaseException as error:
            self._abandon(error)
        finally:
            if is_expected:
                self._roll_call.withdraw(has_arrived=has_arrived)

    @contextlib.contextmanager
    def _holding(self, board: FleetBoard) -> Iterator[None]:
        with self._lock:
            self._held.add(board)
        self.reports.of(board.name)  # listed from now on
        self.work.join(board.name)
        try:
            yield
        finally:
            self.work.leave(board.name)
            board.close()
            with self._lock:
                self._held.discard(board)

    def _admit(self, board: FleetBoard, own: Reference, runner: BoardRunner) -> bool:
        """Put a board on the common scale, unless it is unlike the others."""
        self.reports.of(board.name).reference_ms = own.anchor_ms
        objection = self._roll_call.objection(board.name, own.anchor_ms)
        if objection is not None:
            self.reports.blame(board.name, f"left out: {objection}")
            return False
        with self._lock:
            if self.log.anchor_ms is None:
                machine = {**runner.machine_facts(), "num_boards": self.num_boards}
                self.log.write_anchor(self._roll_call.median_ms, machine)
        assert self.log.anchor_ms is not None  # just written
        own.anchor_ms = self.log.anchor_ms
        return True

    def _measure_on(self, board: FleetBoard, reference: Reference) -> None:
        """Take and measure tasks until none is left, or the board is given up."""
        num_in_a_row = 0
        while (task := self.work.take(board.name)) is not None:
            try:
                figures = self._time(self._build(task.architecture), board, reference)
            except DeviceError as error:
                # The subnet's fault or the board's? Another board will tell.
                logger.warning("subnet %s failed: %s", task.architecture.short_hash, error)
                self._fail(task, board, error)
                num_in_a_row += 1
                if isinstance(error, BoardLostError):
                    raise
                if num_in_a_row == _MAX_IN_A_ROW:
                    reason = f"left out: {num_in_a_row} failures in a row, last {error}"
                    self.reports.blame(board.name, reason)
                    return
            except OfaCompileError as error:
                self._finish(task, failure(error))
            except BaseException:
                self.work.give_back(task)
                raise
            else:
                num_in_a_row = 0
                self._note(self.reports.of(board.name), figures["drift"])
                self._finish(task, figures)

    def _note(self, report: MeasuringReport, drift: float) -> None:
        """Count a subnet, and how far the board's speed is from what it was."""
        report.num_measured += 1
        assert report.reference_ms is not None  # it was admitted
        assert self.log.anchor_ms is not None
        now_ms = (1.0 + drift) * self.log.anchor_ms
        change = now_ms / report.reference_ms - 1.0
        if abs(change) <= abs(report.drift):
            return
        was_known = deviation(1.0 + report.drift, 1.0) is not None
        report.drift = change
        changed = deviation(now_ms, report.reference_ms)
        if changed is not None and not was_known:
            logger.warning("board %s is %s than as it joined", report.board, changed)

    def _fail(self, task: Task, board: FleetBoard, error: DeviceError) -> None:
        task.fail(board.name)
        if task.num_failures < _MAX_FAILURES:
            self.work.give_back(task)
        else:
            self._finish(task, failure(error))

    def _time(self, built: Any, board: FleetBoard, reference: Reference) -> dict[str, Any]:
        runner = self.workshop.deploy(built, board)
        try:
            figures = dataclasses.asdict(measure_latency(runner, reference))
            return {**figures, "machine": runner.machine_facts()}
        finally:
            with contextlib.suppress(BoardLostError):
                runner.close()

    def _finish(self, task: Task, figures: dict[str, Any]) -> None:
        with self._lock:
            self.done.append(self.log.append(task.architecture, **figures))
            self._report_progress(len(self.done))
            try:
                check_failures(self.done)
            except MeasurementError as error:
                self._abandon(error)
        self.work.finish()

    def _abandon(self, error: BaseException) -> None:
        """Stop everything; `run` raises the error."""
        self._fatal = self._fatal or error
        self.work.stop()

    def _build(self, architecture: Architecture) -> Any:
        with self._build_lock:
            folder = self._folder / architecture.short_hash
            folder.mkdir(exist_ok=True)
            return self.workshop.build(architecture, folder)

    def _no_board_left(self) -> DeviceError:
        problems = [f"{r.board}: {r.problem}" for r in self.reports.listed if r.problem]
        if self._none_to_be_had is not None:
            problems.append(str(self._none_to_be_had))
        message = f"{self.work.num_left} subnets are left to measure and no board is"
        message += f" ({'; '.join(problems)})"
        return MeasurementError(message, hint="mend the boards; a second run continues")
