"""Time limits for TVM's RPC client, whose calls wait for the other side without end.

Calls run in a thread of their own. One that takes too long is ended by shutting its socket down,
which makes it fail at once; the socket is found among this process's by whom it is connected to.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ofa_compile.hardware.board_address import Endpoint

T = TypeVar("T")

# How long a call may take to notice that its socket is gone.
_GRACE_S = 5.0
# Descriptors that belong to a live session; another session must not shut them down.
_taken: set[int] = set()
_lock = threading.Lock()


class CallTimeoutError(Exception):
    """A call did not come back in time."""


class Caller:
    """Makes the calls of one session, in order, in one daemon thread.

    Parameters
    ----------
    name
        Of the thread.
    peer
        Whom the session is connected to.
    """

    def __init__(self, name: str, peer: Endpoint) -> None:
        self._peer = peer
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._sockets: set[int] = set()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., T], *arguments: Any, limit_s: float) -> T:
        """Return what the function returns, or raise what it raises.

        Raises
        ------
        CallTimeoutError
            If it takes longer. The connection is cut then, as it is when waiting is interrupted.
        """
        result: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def job() -> None:
            try:
                result.put((function(*arguments), None))
            except BaseException as error:  # handed to the caller
                result.put((None, error))

        self._jobs.put(job)
        try:
            value, error = result.get(timeout=limit_s)
        except queue.Empty:
            self.cut()
            raise CallTimeoutError from None
        except BaseException:  # Ctrl-C: what follows must not wait for the call either
            self.cut()
            raise
        if error is not None:
            # The frames of the other thread hold on to what they worked with.
            raise error.with_traceback(None)
        return value  # type: ignore[return-value]

    def own(self) -> None:
        """Remember the sockets to the peer that no other session has: those of this one."""
        with _lock:
            self._sockets = _descriptors_to(self._peer) - _taken
            _taken.update(self._sockets)

    def cut(self) -> None:
        """Shut the session's connection down, so that a call that waits fails."""
        with _lock:
            descriptors = self._sockets or _descriptors_to(self._peer) - _taken
            for descriptor in descriptors:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
                    end.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """End the thread once its call is over, and give the sockets up."""
        self._jobs.put(None)
        self._thread.join(_GRACE_S)
        with _lock:
            _taken.difference_update(self._sockets)
            self._sockets = set()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it holds of the session must not live until the next one


def _descriptors_to(peer: Endpoint) -> set[int]:
    """Return this process's descriptors of sockets that are connected to an address."""
    try:
        found = socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    addresses = {(entry[4][0], entry[4][1]) for entry in found}
    descriptors = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all there is
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):  # noqa: PTH115
                continue
            with socket.socket(fileno=os.dup(int(name))) as end:
                if end.getpeername()[:2] in addresses:
                    descriptors.add(int(name))
    return descriptors
