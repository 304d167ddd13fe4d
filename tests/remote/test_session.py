from __future__ import annotations

import dataclasses
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from boards import LocalTracker, StockBoard, babble, fake_board, shake_hands

from ofa_compile.errors import BoardLostError, DeviceUnavailableError
from ofa_compile.hardware.board_address import BoardAddress, Endpoint
from ofa_compile.remote import session as session_module
from ofa_compile.remote.session import Board, acquire_board

Glue = Callable[[], bytes]


def script(body: str) -> bytes:
    return f"#!/bin/sh\n{body}\n".encode()


def direct(endpoint: Endpoint, key: str = "stock") -> BoardAddress:
    return BoardAddress(endpoint=endpoint, is_tracker=False, key=key)


def test_runs_uploaded_programs(board: Board) -> None:
    board.put("greet", script('echo "hello $1"; echo oops >&2; exit 5'))
    result = board.run(["greet", "two words"], limit_s=10)
    assert (result.status, result.is_timed_out) == (5, False)
    assert result.output == "hello two words\noops\n"
    board.put("crash", script("kill -SEGV $$"))
    assert board.run(["crash"], limit_s=10).status == -11
    # The session is as good as before.
    assert board.run(["greet", ""], limit_s=10).output == "hello \noops\n"


def test_moves_files_of_any_size(board: Board, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    board.put("data", data)
    assert board.get("data") == data
    board.put("copy", script("cp data other; : > empty"))
    assert board.run(["copy"], limit_s=10).status == 0
    assert board.get("other") == data
    assert board.get("empty") == b""


def test_kills_what_takes_too_long_and_its_children(board: Board) -> None:
    board.put("hang", script("sleep 300 & echo $! > child; echo started; wait"))
    start = time.monotonic()
    result = board.run(["hang"], limit_s=0.5)
    assert time.monotonic() - start < 10
    assert (result.status, result.is_timed_out, result.output) == (-9, True, "started\n")
    child = int(board.get("child"))
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    # Gone, or a zombie that nobody has collected yet.
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_keeps_the_beginning_of_endless_output(board: Board) -> None:
    board.put("talk", script("yes | head -c 1000000"))
    result = board.run(["talk"], limit_s=20)
    assert result.status == 0
    assert result.output == "y\n" * 32768


def test_says_what_the_board_is(board: Board) -> None:
    assert board.facts["machine"] == os.uname().machine
    assert int(board.facts["cores"]) >= 1
    assert board.model
    assert board.name.startswith("stock@127.0.0.1:")


@pytest.mark.parametrize("name", ["../program", "/bin/sh", ".hidden", ""])
def test_runs_only_uploaded_programs(board: Board, name: str) -> None:
    with pytest.raises(BoardLostError, match="plain name"):
        board.run([name], limit_s=1)


def test_missing_files_are_clear_errors(address: BoardAddress, glue: Glue) -> None:
    with (
        acquire_board(address, glue) as board,
        pytest.raises(BoardLostError, match=r"cannot run absent on board stock.*No such file"),
    ):
        board.run(["absent"], limit_s=1)
    with (
        acquire_board(address, glue) as board,
        pytest.raises(BoardLostError, match=r"has no function 'no\.such\.function'"),
    ):
        board.call_function("no.such.function")


def test_board_is_free_again_after_use(
    tracker: LocalTracker, address: BoardAddress, glue: Glue
) -> None:
    with acquire_board(address, glue) as board:
        impatient = dataclasses.replace(address, wait_s=0.2)
        with pytest.raises(DeviceUnavailableError) as caught:
            acquire_board(impatient, glue)
        assert "no board with key 'stock' was free within 0.2 s" in str(caught.value)
        assert "knows 1 of this key" in str(caught.value)
        assert "in use" in str(caught.value.hint)
        board.facts.clear()
    tracker.wait_for("stock")
    with pytest.raises(BoardLostError, match="given back earlier"):
        board.read_facts()


def test_no_board_of_this_key(tracker: LocalTracker, address: BoardAddress, glue: Glue) -> None:
    unknown = dataclasses.replace(address, key="toaster", wait_s=0.1)
    with pytest.raises(DeviceUnavailableError, match="knows 0 of this key, and boards with stock"):
        acquire_board(unknown, glue)


def test_sessions_do_not_pile_up(address: BoardAddress, glue: Glue) -> None:
    """TVM's table has room for 32, and a session stays there until nothing refers to it."""
    from tvm.rpc import _ffi_api

    kept = []
    for _ in range(2):
        with acquire_board(address, glue) as board:
            index = _ffi_api.SessTableIndex(board._session._sess)
            with pytest.raises(BoardLostError) as caught:
                board.run(["absent"], limit_s=1)
        kept.append((board, caught.value, index))
    assert kept[0][2] == kept[1][2]


def test_board_dies_in_the_middle_of_a_run(glue: Glue) -> None:
    server = StockBoard("mortal")
    try:
        with acquire_board(direct(server.endpoint, "mortal"), glue) as board:
            board.put("wait", script("sleep 60"))
            threading.Timer(0.5, server.kill).start()
            start = time.monotonic()
            with pytest.raises(BoardLostError, match=r"cannot run wait on board mortal@.* lost"):
                board.run(["wait"], limit_s=50)
            assert time.monotonic() - start < 20
            assert board.is_lost
    finally:
        server.kill()


def test_wrong_key_is_refused(stock_board: StockBoard, glue: Glue) -> None:
    with pytest.raises(DeviceUnavailableError, match="cannot connect to board other@") as caught:
        acquire_board(direct(stock_board.endpoint, "other"), glue)
    assert "key" in str(caught.value.hint)


def test_nothing_listens(glue: Glue) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint(*server.getsockname()[:2])
    with pytest.raises(DeviceUnavailableError, match="cannot connect to board stock@127"):
        acquire_board(direct(endpoint), glue)


def test_silent_board_is_given_up(monkeypatch: pytest.MonkeyPatch, glue: Glue) -> None:
    monkeypatch.setattr(session_module, "CONNECT_S", 0.3)
    threads = threading.active_count()
    with (
        fake_board(lambda end: None) as endpoint,
        pytest.raises(DeviceUnavailableError, match=r"does not answer within 0\.3 s"),
    ):
        acquire_board(direct(endpoint), glue)
    assert threading.active_count() <= threads + 1


def test_board_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch, glue: Glue) -> None:
    """A board that loses power says nothing at all: no end of connection, no error."""
    monkeypatch.setattr(session_module, "_CALL_S", 0.3)

    def fall_silent(end: socket.socket) -> None:
        shake_hands(end)
        end.recv(1 << 16)
        # The answer to the client's first message: an empty return.
        end.sendall(struct.pack("<Qiii", 12, 4, 1, 0))

    with (
        fake_board(fall_silent) as endpoint,
        pytest.raises(BoardLostError, match=r"did not answer within 0.3 s when asked to look for"),
    ):
        acquire_board(direct(endpoint), glue)


def test_garbage_from_a_board_is_an_error(monkeypatch: pytest.MonkeyPatch, glue: Glue) -> None:
    monkeypatch.setattr(session_module, "CONNECT_S", 5.0)
    with (
        fake_board(babble) as endpoint,
        pytest.raises(DeviceUnavailableError, match="cannot connect to board stock"),
    ):
        acquire_board(direct(endpoint), glue)


def test_glue_for_another_machine(address: BoardAddress) -> None:
    with pytest.raises(DeviceUnavailableError, match="cannot load the glue module") as caught:
        acquire_board(address, lambda: b"\x7fELF but not really")
    assert "target's kind" in str(caught.value.hint)
