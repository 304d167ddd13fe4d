"""Where the boards of a target are reached: from its file, or from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ofa_compile.errors import DeviceUnavailableError, TargetSpecError

TRACKER_VARIABLE = "OFA_COMPILE_TRACKER"
BOARD_VARIABLE = "OFA_COMPILE_BOARD"
# A secret: it is never read from a target's file, nor written anywhere.
TOKEN_VARIABLE = "OFA_COMPILE_BOARD_TOKEN"

_ENDPOINT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_KEY = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Endpoint:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return "HOST:PORT"."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class BoardAddress:
    """How to get hold of a board.

    Attributes
    ----------
    endpoint
        The tracker, or the board itself.
    is_tracker
        Which of the two it is.
    key
        What the boards are registered as.
    wait_s
        How long to wait until one is free.
    token
        What boards that ask for a token want to hear.
    """

    endpoint: Endpoint
    is_tracker: bool
    key: str
    wait_s: float = 60.0
    token: str = ""


def is_on_board(target: Mapping[str, Any]) -> bool:
    """Tell whether code for a target (as a manifest describes it) runs on a board behind RPC."""
    # Bundles from before boards have no runner.
    return bool(target.get("runner", {}).get("kind") == "rpc")


def parse_endpoint(text: str, where: str) -> Endpoint:
    """Parse "HOST:PORT" or "[IPv6]:PORT"; `where` is for messages.

    Raises
    ------
    TargetSpecError
        If it is neither.
    """
    match = _ENDPOINT.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65_535:
        message = f"{where} must be HOST:PORT with a port from 1 to 65535, got {text!r}"
        raise TargetSpecError(message)
    return Endpoint(match["host"].strip("[]"), int(match["port"]))


def board_address(runner: Mapping[str, Any], target: str) -> BoardAddress:
    """Return where the boards of a target are.

    Parameters
    ----------
    runner
        Fields of its `RunnerSpec`.
    target
        The target's name, which is the boards' key where the runner has none.

    Raises
    ------
    DeviceUnavailableError
        If neither the runner nor the environment names a tracker or a board.
    TargetSpecError
        If an address or the key is malformed.
    """
    tracker, server = os.environ.get(TRACKER_VARIABLE, ""), os.environ.get(BOARD_VARIABLE, "")
    where = BOARD_VARIABLE if server else TRACKER_VARIABLE
    if not tracker and not server:
        tracker, server = str(runner.get("tracker", "")), str(runner.get("server", ""))
        where = f"'runner' of target '{target}'"
    if not tracker and not server:
        message = f"target '{target}' runs on boards, and nothing says where they are"
        hint = f"set {TRACKER_VARIABLE} or {BOARD_VARIABLE} to HOST:PORT, or 'runner.tracker'"
        raise DeviceUnavailableError(message, hint=f"{hint} in the target's file")
    key = str(runner.get("key", "")) or target
    if not _KEY.fullmatch(key):
        message = f"'runner.key' of target '{target}' is {key!r}; letters, digits, '.', '_', '-'"
        raise TargetSpecError(message)
    return BoardAddress(
        endpoint=parse_endpoint(server or tracker, where),
        is_tracker=not server,
        key=key,
        wait_s=float(runner.get("wait_s", 60.0)),
        token=os.environ.get(TOKEN_VARIABLE, ""),
    )
