"""Talk to TVM's RPC tracker, which knows the boards; every answer has a time limit.

The messages are those of `tvm.rpc.tracker`: a magic number, then JSON documents behind their length
as a 32-bit integer. TVM's own client waits without end, and importing it takes seconds.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import dataclass
from typing import Any, Self

from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.board_address import Endpoint

_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_CONNECT_S = 10.0
_MAX_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True)
class Offer:
    """A board that the tracker gave us: where it is, and the word it waits for."""

    endpoint: Endpoint
    match_key: str


@dataclass(frozen=True, kw_only=True)
class KeySummary:
    """What the tracker knows about one key.

    Attributes
    ----------
    boards
        Addresses of the boards registered under it.
    num_free
        How many of them nobody uses.
    num_waiting
        Requests that wait for one.
    """

    boards: tuple[str, ...]
    num_free: int
    num_waiting: int


class Tracker:
    """A connection to an RPC tracker; use it in a `with` block.

    Raises
    ------
    DeviceUnavailableError
        If no tracker answers.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        try:
            self._socket = socket.create_connection((endpoint.host, endpoint.port), _CONNECT_S)
        except OSError as error:
            raise self._unreachable(error) from error
        try:
            self._socket.sendall(struct.pack("<i", _MAGIC))
            if self._receive(4) != struct.pack("<i", _MAGIC):
                message = f"what answers at {endpoint} is no RPC tracker"
                raise DeviceUnavailableError(message, hint="check host and port")
        except OSError as error:
            self.close()
            raise self._unreachable(error, "it does not answer") from error
        except BaseException:
            self.close()
            raise

    def _unreachable(self, error: Exception, what: str = "") -> DeviceUnavailableError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = f"{what} ({reason})" if what else reason
        host, port = self.endpoint.host, self.endpoint.port
        message = f"no RPC tracker at {self.endpoint}: {reason}"
        hint = f"start one: python -m tvm.exec.rpc_tracker --host {host} --port {port}"
        return DeviceUnavailableError(message, hint=f"{hint}; or correct the address")

    def request(self, key: str, wait_s: float) -> Offer | None:
        """Wait until a board of a key is free; None if none becomes free in time."""
        try:
            code, (host, port, match_key) = self._ask([_REQUEST, key, "", 1], wait_s)
            if code == _SUCCESS:
                return Offer(Endpoint(str(host), int(port)), str(match_key))
        except TimeoutError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise self._unreachable(error, "it failed") from error
        message = f"the RPC tracker at {self.endpoint} refused a request for '{key}'"
        raise DeviceUnavailableError(message)

    def summary(self) -> dict[str, KeySummary]:
        """Return what the tracker knows, by key."""
        try:
            _, found = self._ask([_SUMMARY], _CONNECT_S)
            boards: dict[str, list[str]] = {key: [] for key in found["queue_info"]}
            for server in found["server_info"]:
                host, port = server["addr"]
                key = str(server["key"]).removeprefix("server:")
                boards.setdefault(key, []).append(str(Endpoint(str(host), int(port))))
            queues = found["queue_info"]
            return {
                key: KeySummary(
                    boards=tuple(sorted(addresses)),
                    num_free=int(queues.get(key, {}).get("free", 0)),
                    num_waiting=int(queues.get(key, {}).get("pending", 0)),
                )
                for key, addresses in sorted(boards.items())
            }
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise self._unreachable(error, "it failed") from error

    def _ask(self, question: list[Any], limit_s: float) -> Any:
        deadline = time.monotonic() + limit_s
        data = json.dumps(question).encode()
        self._socket.settimeout(_CONNECT_S)
        self._socket.sendall(struct.pack("<i", len(data)) + data)
        (size,) = struct.unpack("<i", self._receive(4, deadline))
        if not 0 < size <= _MAX_MESSAGE_BYTES:
            message = f"a message of {size} bytes"
            raise ValueError(message)
        # An answer has begun, so that the wait for a board is over.
        return json.loads(self._receive(size))

    def _receive(self, size: int, deadline: float | None = None) -> bytes:
        deadline = time.monotonic() + _CONNECT_S if deadline is None else deadline
        data = b""
        while len(data) < size:
            # A time-out of zero would mean not to wait at all.
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            part = self._socket.recv(size - len(data))
            if not part:
                message = "the connection was closed"
                raise ConnectionError(message)
            data += part
        return data

    def close(self) -> None:
        """Close the connection; a request that waits is withdrawn."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
