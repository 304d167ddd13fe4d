from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "bundle"))

from boards import LocalTracker, StockBoard

from ofa_compile.hardware.board_address import BoardAddress
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.target_spec import load_target
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
