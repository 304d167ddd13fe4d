from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from boards import RPC_MAGIC, Daemon, LocalTracker, fake_board, reset_after

from ofa_compile.errors import BoardLostError, DeviceUnavailableError, UserInputError
from ofa_compile.hardware.board_address import BoardAddress, Endpoint
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.remote.daemon import build_daemon
from ofa_compile.remote.session import Board, acquire_board


def no_glue() -> bytes:
    message = "the daemon needs no glue"
    raise AssertionError(message)


def script(body: str) -> bytes:
    return f"#!/bin/sh\n{body}\n".encode()


def take(endpoint: Endpoint, key: str = "pi", token: str = "") -> Board:
    address = BoardAddress(endpoint=endpoint, is_tracker=False, key=key, token=token)
    return acquire_board(address, no_glue)


@pytest.fixture
def start(daemon_program: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts daemons, which are ended after the test."""
    running: list[Daemon] = []

    def call(
        key: str = "pi", tracker: Endpoint | None = None, *words: str, token: str = ""
    ) -> Daemon:
        daemon = Daemon(daemon_program, key, tracker, *words, folder=tmp_path, token=token)
        running.append(daemon)
        return daemon

    yield call
    for daemon in running:
        with contextlib.suppress(ValueError):
            daemon.stop(signal.SIGKILL)


def sessions(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("ofa-board-*"))


def test_is_one_static_file(daemon_program: Path, tmp_path: Path) -> None:
    assert os.access(daemon_program, os.X_OK)
    found = subprocess.run(["file", "-b", daemon_program], capture_output=True, check=False)
    if found.returncode == 0:
        assert b"statically linked" in found.stdout
    size = build_daemon(load_target("host"), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == daemon_program.read_bytes()
    assert size < 2_000_000
    (tmp_path / "file").touch()
    with pytest.raises(UserInputError, match="cannot write"):
        build_daemon(load_target("host"), tmp_path / "file" / "daemon")


def test_runs_programs(start: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = start()
    data = os.urandom(2_000_000)
    with take(daemon.endpoint) as board:
        board.put("data", data)
        board.put("greet", script('echo "hello $1"; cat data > copy; exit 7'))
        result = board.run(["greet", "two words"], limit_s=10)
        assert (result.status, result.output) == (7, "hello two words\n")
        assert board.get("copy") == data
        board.remove("copy")
        assert board.facts["machine"] == os.uname().machine
        (folder,) = sessions(tmp_path)
        assert {path.name for path in folder.iterdir()} == {"data", "greet"}
        board.put("hang", script("sleep 60 & wait"))
        assert board.run(["hang"], limit_s=0.3).is_timed_out
    with take(daemon.endpoint) as board:
        assert [path.name for path in sessions(tmp_path) if list(path.iterdir())] == []
    code, log = daemon.stop()
    assert code == 0
    assert log.count("session is over") == 2
    assert sessions(tmp_path) == []


def test_words_before_each_program(start: Callable[..., Daemon]) -> None:
    daemon = start("pi", None, "--run-with", "env", "COLOUR=blue")
    with take(daemon.endpoint) as board:
        board.put("show", script("echo $COLOUR $HOME $OFA_COMPILE_BOARD_TOKEN."))
        assert board.run(["show"], limit_s=10).output == "blue .\n"


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", ".profile", "a/b", "a/../b"])
def test_nothing_outside_the_folder(start: Callable[..., Daemon], name: str) -> None:
    daemon = start()
    for attempt in (
        lambda board: board.put(name, b"x"),
        lambda board: board.get(name),
        lambda board: board.remove(name),
        lambda board: board.run([name], limit_s=1),
    ):
        with take(daemon.endpoint) as board, pytest.raises(BoardLostError, match="plain name"):
            attempt(board)


def test_links_are_not_followed(start: Callable[..., Daemon], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    daemon = start()
    with take(daemon.endpoint) as board:
        board.put("link", script(f"ln -s {secret} inside"))
        board.run(["link"], limit_s=5)
        board.put("inside", b"mine")
        assert secret.read_text() == "secret"
        board.run(["link"], limit_s=5)
        board.remove("inside")
        board.run(["link"], limit_s=5)
        with pytest.raises(BoardLostError, match="symbolic links"):
            board.get("inside")


@pytest.mark.parametrize("name", ["ffi.Module.load_from_file.so", "tvm.rpc.server.workpath", "rpc"])
def test_offers_nothing_but_its_functions(start: Callable[..., Daemon], name: str) -> None:
    with take(start().endpoint) as board, pytest.raises(BoardLostError, match="has no function"):
        board.call_function(name, "x")


def test_asks_for_key_and_token(start: Callable[..., Daemon]) -> None:
    daemon = start(token="open sesame".replace(" ", "-"))
    for key, token in (("pi", ""), ("pi", "open"), ("pi", "open-sesamf"), ("po", "open-sesame")):
        with pytest.raises(DeviceUnavailableError, match="cannot connect to board"):
            take(daemon.endpoint, key, token)
    with take(daemon.endpoint, "pi", "open-sesame") as board:
        assert board.facts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--key", "pi"], "--listen: is missing"),
        (["--listen", "0.0.0.0:0", "--key", "pi"], "would listen on all interfaces"),
        (["--listen", "[::ffff:0.0.0.0]:0", "--key", "pi"], "would listen on all interfaces"),
        (["--listen", "[::]:0", "--key", "pi"], "would listen on all interfaces"),
        (["--listen", "localhost:0", "--key", "pi"], "wants a numeric ADDRESS:PORT"),
        (["--listen", "127.0.0.1:99999", "--key", "pi"], "wants a numeric ADDRESS:PORT"),
        (["--listen", "127.0.0.1:0"], "--key: is missing"),
        (["--listen", "127.0.0.1:0", "--key", "a b"], "takes letters, digits"),
        (["--listen", "127.0.0.1:0", "--key", "pi", "--tracker", "x:1"], "--tracker: wants"),
        (["--nonsense", "1"], "unknown option"),
        (["--listen"], "wants a value"),
    ],
)
def test_wrong_options(daemon_program: Path, words: list[str], message: str) -> None:
    done = subprocess.run([daemon_program, *words], capture_output=True, text=True, timeout=10)
    assert done.returncode == 2
    assert message in done.stderr


def test_all_interfaces_only_when_told_so(daemon_program: Path) -> None:
    words = ["--listen", "0.0.0.0:0", "--key", "pi", "--all-interfaces"]
    with subprocess.Popen(
        [daemon_program, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert "listening on port" in process.stdout.readline()
        process.terminate()
    assert process.returncode == 0


def greet(key: bytes, then: bytes = b"") -> bytes:
    return struct.pack("<ii", RPC_MAGIC, len(key)) + key + then


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<ii", RPC_MAGIC, -1),
        struct.pack("<ii", RPC_MAGIC, 2**30),
        greet(b"client:pi", b"\xff" * 64),
        greet(b"client:pi", struct.pack("<Qi", 4, 77)),
        greet(b"client:pi", struct.pack("<Qiqi", 16, 3, 1, 1000)),
        greet(b"client:pi", struct.pack("<Qiqii", 20, 3, 1, 1, 99)),
        greet(b"client:pi", struct.pack("<Qiqiiq", 28, 3, 1, 1, 8, 2**62)),
        greet(b"client:pi", struct.pack("<Qiq", 12, 3, 12345)),
        greet(b"client:pi", struct.pack("<Q", 2**62)),
        greet(b"client:pi", struct.pack("<Q", 1000) + b"cut off"),
    ],
)
def test_survives_bad_clients(start: Callable[..., Daemon], tmp_path: Path, garbage: bytes) -> None:
    daemon = start()
    with socket.create_connection((daemon.endpoint.host, daemon.endpoint.port), 5) as end:
        end.sendall(garbage)
        end.settimeout(10)
        with contextlib.suppress(OSError):  # it may have hung up already
            end.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while end.recv(4096):
                pass
    with take(daemon.endpoint) as board:
        assert board.facts
    assert daemon.stop()[0] == 0
    assert sessions(tmp_path) == []


def test_client_that_goes_takes_its_program_along(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start()
    board = take(daemon.endpoint)
    board.put("hang", script("echo $$ > pid; sleep 60"))
    thread = threading.Timer(1.0, board.interrupt)
    thread.start()
    with pytest.raises(BoardLostError):
        board.run(["hang"], limit_s=50)
    board.close()
    thread.join()
    start_s = time.monotonic()
    with take(daemon.endpoint) as other:
        assert other.facts
    assert time.monotonic() - start_s < 10


def test_interrupt_does_not_wait_for_the_program(
    start: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start()
    begin = time.monotonic()
    with take(daemon.endpoint) as board:
        board.put("hang", script("sleep 60"))
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            board.run(["hang"], limit_s=50)
    with take(daemon.endpoint) as board:
        assert board.facts
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_in_the_middle_of_a_session(
    start: Callable[..., Daemon], tmp_path: Path, number: int
) -> None:
    daemon = start()
    with take(daemon.endpoint) as board:
        board.put("hang", script("sleep 60"))
        threading.Timer(0.5, lambda: daemon.process.send_signal(number)).start()
        with pytest.raises(BoardLostError, match="connection was lost"):
            board.run(["hang"], limit_s=50)
    assert daemon.stop()[0] == 0
    assert sessions(tmp_path) == []


def test_reset_by_a_board_is_a_lost_connection(start: Callable[..., Daemon]) -> None:
    """A board that dies in the middle of a message is found by a reset, not by an end."""
    with (
        fake_board(reset_after(start().endpoint, 50_000)) as endpoint,
        take(endpoint) as board,
        pytest.raises(BoardLostError, match=r"cannot upload big .*: the connection was lost"),
    ):
        board.put("big", bytes(200_000))


def test_registers_with_a_tracker_again_and_again(
    tracker: LocalTracker, start: Callable[..., Daemon]
) -> None:
    address = BoardAddress(endpoint=tracker.endpoint, is_tracker=True, key="mine", wait_s=20)
    daemon = start("mine", tracker.endpoint)
    for _ in range(3):
        with acquire_board(address, no_glue) as board:
            assert board.name == f"mine@{daemon.endpoint}"
    with pytest.raises(DeviceUnavailableError, match="cannot connect to board mine"):
        take(daemon.endpoint, "mine")  # not without the tracker's word
    assert daemon.stop()[0] == 0


@pytest.mark.slow
def test_offers_itself_anew_when_a_client_does_not_come(
    tracker: LocalTracker, start: Callable[..., Daemon]
) -> None:
    from ofa_compile.remote.tracker import Tracker

    start("shy", tracker.endpoint)
    with Tracker(tracker.endpoint) as connection:
        first = connection.request("shy", 20)
        second = connection.request("shy", 30)
    assert first is not None
    assert second is not None
    assert first.endpoint == second.endpoint
    assert first.match_key != second.match_key


def test_waits_for_a_tracker_to_come_up(start: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint(*server.getsockname()[:2])
    daemon = start("early", endpoint)
    time.sleep(0.5)
    code, log = daemon.stop()
    assert code == 0
    assert "the tracker does not take us: Connection refused" in log


def test_an_engine_has_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="'wasm32' runs inside an engine"):
        build_daemon(load_target("wasm32"), tmp_path / "daemon")
    assert list(tmp_path.iterdir()) == []
