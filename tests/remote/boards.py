"""Trackers and boards for tests, all on this machine."""

from __future__ import annotations

import asyncio
import contextlib
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
