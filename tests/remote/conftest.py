from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tuning"))

from boards import BAD_OFFERS, Daemon, LocalTracker, StockBoard, fake_board, offered

from ofa_compile.hardware.board_address import BoardAddress
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import RunnerSpec, TargetSpec, load_target
from ofa_compile.remote.daemon import build_daemon
from ofa_compile.remote.glue import build_glue
from ofa_compile.remote.session import Board, acquire_board


@pytest.fixture(scope="session")
def tracker() -> Iterator[LocalTracker]:
    found = LocalTracker()
    yield found
    found.stop()


@pytest.fixture(scope="session")
def glue(_own_cache: None) -> Callable[[], bytes]:
    """Return what makes the glue module for this machine."""
    return lambda: build_glue(["gcc", "cc"], host_arch(), "host")


@pytest.fixture(scope="session")
def daemon_program(_own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return our daemon, built for this machine."""
    path = tmp_path_factory.mktemp("daemon") / "board-daemon"
    build_daemon(load_target("host"), path)
    return path


@pytest.fixture(scope="session")
def stock_board(tracker: LocalTracker) -> Iterator[StockBoard]:
    """Start TVM's own server behind the tracker, under the key `stock`."""
    server = StockBoard("stock", tracker.endpoint)
    yield server
    server.kill()


@pytest.fixture
def address(tracker: LocalTracker, stock_board: StockBoard) -> BoardAddress:
    return BoardAddress(endpoint=tracker.endpoint, is_tracker=True, key="stock", wait_s=20)


@pytest.fixture
def board(address: BoardAddress, glue: Callable[[], bytes]) -> Iterator[Board]:
    with acquire_board(address, glue) as held:
        yield held


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """Return a key of the test's own."""
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def daemons(
    key: str, tracker: LocalTracker, daemon_program: Path, tmp_path: Path
) -> Iterator[list[Daemon]]:
    """Start three boards."""
    running = [Daemon(daemon_program, key, tracker.endpoint, folder=tmp_path) for _ in range(3)]
    tracker.wait_for(key, 3)
    yield running
    for daemon in running:
        with contextlib.suppress(ValueError):
            daemon.stop(signal.SIGKILL)


@pytest.fixture
def target(key: str, tracker: LocalTracker) -> TargetSpec:
    """Return this machine's target, reached by the tracker."""
    runner = RunnerSpec(kind="rpc", tracker=str(tracker.endpoint), key=key, wait_s=2)
    return dataclasses.replace(load_target("host"), name="loopback", runner=runner)


@pytest.fixture
def bad_board(
    key: str,
    tracker: LocalTracker,
    daemons: list[Daemon],
    daemon_program: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], str]]:
    """Return what has the tracker offer a board with a fault beside the others; gives its name."""
    monkeypatch.setattr("ofa_compile.remote.session._PAUSE_S", 0.0)
    with contextlib.ExitStack() as stack:

        def offer(fault: str) -> str:
            inner = Daemon(daemon_program, key, folder=tmp_path)
            stack.callback(inner.stop)
            endpoint = stack.enter_context(fake_board(BAD_OFFERS[fault](inner.endpoint)))
            stack.enter_context(offered(tracker.endpoint, key, endpoint))
            tracker.wait_for(key, len(daemons) + 1)
            return f"{key}@{endpoint}"

        yield offer
