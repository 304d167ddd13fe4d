"""Trackers and boards for tests, all on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ofa_compile.hardware.board_address import Endpoint

RPC_MAGIC = 0xFF271


class LocalTracker:
    """TVM's tracker in a thread of this process."""

    def __init__(self) -> None:
        import tvm.rpc.tracker  # noqa: F401 - takes long on a busy machine: not in the thread

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint(*self._socket.getsockname()[:2])
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _serve(self) -> None:
        from tvm.rpc.tracker import TrackerServerHandler, logger

        logger.setLevel("ERROR")
        asyncio.set_event_loop(asyncio.new_event_loop())
        self._handler = TrackerServerHandler(self._socket, "stop")
        self._ready.set()
        self._handler.run()

    def stop(self) -> None:
        self._handler._ioloop.add_callback(self._handler.stop)
        self._thread.join(10)

    def wait_for(self, key: str, count: int = 1, limit_s: float = 120.0) -> None:
        """Wait until so many boards of a key are free."""
        from ofa_compile.remote.tracker import Tracker

        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            with Tracker(self.endpoint) as tracker:
                found = tracker.summary().get(key)
            if found is not None and found.num_free >= count:
                return
            time.sleep(0.05)
        message = f"{count} boards of key {key} did not come up"
        raise AssertionError(message)


class StockBoard:
    """TVM's RPC server in a process group of its own."""

    def __init__(self, key: str, tracker: Endpoint | None = None) -> None:
        self.key = key
        script = str(Path(__file__).with_name("stock_server.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, key, str(tracker or "")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.endpoint = Endpoint("127.0.0.1", int(self.process.stdout.readline()))

    def kill(self) -> None:
        """End it and all sessions as a power cut would, but for the closed connections."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


class Daemon:
    """Our own daemon; `words` are its options beside --listen and --key."""

    def __init__(
        self,
        program: Path,
        key: str,
        tracker: Endpoint | None = None,
        *words: str,
        command: Sequence[str] = (),
        folder: Path | None = None,
        token: str = "",
    ) -> None:
        arguments = ["--listen", "127.0.0.1:0", "--key", key]
        arguments += ["--tracker", str(tracker)] if tracker is not None else []
        arguments += ["--folder", str(folder)] if folder is not None else []
        environment = {**os.environ, "OFA_COMPILE_BOARD_TOKEN": token}
        self.process = subprocess.Popen(
            [*command, str(program), *arguments, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stop()
        self.endpoint = Endpoint("127.0.0.1", int(line.split()[-1]))

    def strike(self, fault: str) -> None:
        """Let it die, or hang with all that it started."""
        self.send({"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[fault])

    def send(self, number: int) -> None:
        """Send a signal to it and its sessions."""
        process = self.process.pid
        path = Path(f"/proc/{process}/task/{process}/children")
        children = path.read_text().split() if path.exists() else []
        for receiver in (process, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(receiver, number)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it and return its exit code and its log."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=20)
        return self.process.returncode, log


@contextlib.contextmanager
def fake_board(behave: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """Accept connections and hand each to `behave`, in threads."""
    server = socket.create_server(("127.0.0.1", 0))
    open_ends: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = server.accept()
                open_ends.append(end)
                with contextlib.suppress(OSError):
                    behave(end)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield Endpoint(*server.getsockname()[:2])
    finally:
        for end in (server, *open_ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def shake_hands(end: socket.socket) -> None:
    """Do the server's part of a handshake."""
    _, length = struct.unpack("<ii", end.recv(8, socket.MSG_WAITALL))
    end.recv(length, socket.MSG_WAITALL)
    name = b"server:fake"
    end.sendall(struct.pack("<ii", RPC_MAGIC, len(name)) + name)


def refuse_key(end: socket.socket) -> None:
    """Turn a client away that has the key under which the board registered."""
    _, length = struct.unpack("<ii", end.recv(8, socket.MSG_WAITALL))
    end.recv(length, socket.MSG_WAITALL)
    end.sendall(struct.pack("<i", RPC_MAGIC + 2))
    end.close()


def babble(end: socket.socket) -> None:
    """Answer the first message with nonsense."""
    shake_hands(end)
    end.sendall(b"\x08\0\0\0\0\0\0\0" + b"garbage!" * 4)


def reset_after(board: Endpoint, num_bytes: int) -> Callable[[socket.socket], None]:
    """Be a board, until so many bytes have come: then the connection is reset."""

    def behave(end: socket.socket) -> None:
        with socket.create_connection((board.host, board.port)) as inner:
            threading.Thread(target=_pass_on, args=(inner, end), daemon=True).start()
            _pass_on(end, inner, num_bytes)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    return behave


BAD_OFFERS: dict[str, Callable[[Endpoint], Callable[[socket.socket], None]]] = {
    "refuses": lambda board: refuse_key,
    "babbles": lambda board: babble,
    "resets": lambda board: reset_after(board, 50_000),
}
"""What boards do that the tracker offers: given a good one, how they behave."""


def _pass_on(source: socket.socket, sink: socket.socket, limit: int = 1 << 40) -> None:
    with contextlib.suppress(OSError):
        while limit > 0 and (data := source.recv(1 << 14)):
            limit -= len(data)
            sink.sendall(data)


@contextlib.contextmanager
def offered(tracker: Endpoint, key: str, board: Endpoint) -> Iterator[None]:
    """Register a board with a tracker under a key; the tracker forgets it after the block."""
    update, put = 5, 3
    address = [board.host, board.port]
    with socket.create_connection((tracker.host, tracker.port)) as end:
        end.sendall(struct.pack("<i", 0x2F271))
        end.recv(4, socket.MSG_WAITALL)
        info = {"key": f"server:{key}", "addr": address}
        for document in ([update, info], [put, key, [board.port, key], board.host]):
            data = json.dumps(document).encode()
            end.sendall(struct.pack("<i", len(data)) + data)
            (length,) = struct.unpack("<i", end.recv(4, socket.MSG_WAITALL))
            assert json.loads(end.recv(length, socket.MSG_WAITALL)) == 0
        yield
