"""What we use of TVM's RPC client. Every function may block: call them through a `Caller`.

Functions and modules of a session keep references to it, and dropping one speaks to the board;
that is safe anywhere once `close` has run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm.rpc
from tvm.rpc import RPCSession

# What a failing call raises: tvm_ffi makes Python's RuntimeError of most kinds.
CLIENT_ERRORS = (RuntimeError, OSError, ValueError, AttributeError, TypeError)


def connect(host: str, port: int, match_key: str) -> RPCSession:
    """Connect to a board that waits for this key."""
    return tvm.rpc.connect(host, port, match_key)


def find(session: RPCSession, name: str) -> Callable[..., Any] | None:
    """Return a global function of the board, or None if it has none of that name."""
    try:
        return session.get_function(name)  # type: ignore[no-any-return]
    except AttributeError:
        return None


def upload(session: RPCSession, name: str, data: bytes) -> None:
    """Write a file into the session's folder on the board."""
    session.upload(bytearray(data), name)


def load_module(session: RPCSession, name: str) -> Any:
    """Load an uploaded library on the board; index the result with names of its functions."""
    return session.load_module(name)


def close(session: RPCSession) -> None:
    """End the session; whatever is left of it fails from now on instead of waiting."""
    session.get_function("CloseRPCConnection")()
