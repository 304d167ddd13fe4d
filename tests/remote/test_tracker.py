from __future__ import annotations

import socket
import struct
import time

import pytest
from boards import LocalTracker, StockBoard, fake_board

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.board_address import Endpoint
from ofa_compile.remote import tracker as tracker_module
from ofa_compile.remote.tracker import Tracker


def test_lists_boards_by_key(tracker: LocalTracker, stock_board: StockBoard) -> None:
    tracker.wait_for("stock")
    with Tracker(tracker.endpoint) as connection:
        summary = connection.summary()["stock"]
        assert summary.boards == (str(stock_board.endpoint),)
        assert (summary.num_free, summary.num_waiting) == (1, 0)
        assert connection.request("nobody has this", 0.1) is None


def test_no_tracker_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint(*server.getsockname()[:2])
    with pytest.raises(DeviceUnavailableError, match=r"no RPC tracker at 127.*refused") as caught:
        Tracker(endpoint)
    expected = f"python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port {endpoint.port}"
    assert expected in str(caught.value.hint)


def test_unknown_host() -> None:
    with pytest.raises(DeviceUnavailableError, match=r"no RPC tracker at no-such-host\.invalid:1"):
        Tracker(Endpoint("no-such-host.invalid", 1))


def test_something_else_listens() -> None:
    def greet(end: socket.socket) -> None:
        end.sendall(b"220 smtp.example.org ready\r\n")

    with fake_board(greet) as endpoint, pytest.raises(DeviceUnavailableError, match="no RPC track"):
        Tracker(endpoint)


def test_silent_tracker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "_CONNECT_S", 0.2)
    start = time.monotonic()
    with (
        fake_board(lambda end: None) as endpoint,
        pytest.raises(DeviceUnavailableError, match="it does not answer"),
    ):
        Tracker(endpoint)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("answer", [struct.pack("<i", -5), struct.pack("<i", 3) + b"{}}", b""])
def test_tracker_that_talks_nonsense(answer: bytes) -> None:
    def behave(end: socket.socket) -> None:
        end.sendall(end.recv(4))
        end.recv(1000)
        end.sendall(answer)
        end.shutdown(socket.SHUT_RDWR)

    with (
        fake_board(behave) as endpoint,
        Tracker(endpoint) as connection,
        pytest.raises(DeviceUnavailableError, match="it failed"),
    ):
        connection.summary()
