"""Hold one board through TVM RPC and run programs on it.

Everything that crosses the network has a time limit, and every failure is a `DeviceError` that
names the board: `DeviceUnavailableError` before a board is held, `BoardLostError` when the board is
at fault afterwards, `DeviceError` when a program of ours is.

    with acquire_board(address, glue=lambda: build_glue(...)) as board:
        board.put("driver", executable_bytes)
        result = board.run(["driver", "--repeats", "10"], limit_s=30)

A board is a stock TVM RPC server (the glue module is then uploaded to it) or our own daemon (which
has the same functions built in).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Self, TypeVar

from ofa_compile.errors import BoardLostError, DeviceError, DeviceUnavailableError
from ofa_compile.hardware.board_address import BoardAddress, Endpoint
from ofa_compile.remote.calls import Caller, CallTimeoutError
from ofa_compile.remote.glue import GLUE_NAME
from ofa_compile.remote.tracker import KeySummary, Tracker

logger = logging.getLogger(__name__)
T = TypeVar("T")
Blame = Callable[[str, str], None]
"""Called with the name of a board that failed, and why."""

CONNECT_S = 15.0
# TVM's client has room for 32 sessions in one process.
MAX_BOARDS = 30
# A call without work of its own, and what the network may add to one that has.
_CALL_S = 15.0
# Slower links than this are of no use for measuring.
_BYTES_PER_S = 100_000
# Before the tracker is asked again after a board failed.
_PAUSE_S = 0.5
_RUN, _FACTS = "ofa_board_run", "ofa_board_facts"
# In the words of TVM's client: whether it finds the end of the stream or a reset, when reading or
# when writing, depends on what was under way when the board died.
_SIGNS_OF_A_LOST_CONNECTION = ("kShutdown", "Channel closes", "previously closed", "SockChannel::")


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """How a program on a board ended.

    Attributes
    ----------
    status
        Exit code, or minus the number of the signal that ended it.
    is_timed_out
        Whether it was killed because its time was up.
    output
        What it printed, standard output and error together, at most 64 KiB.
    """

    status: int
    is_timed_out: bool
    output: str


class Board:
    """A board that this process holds; nobody else can use it until `close`.

    Not for several threads at once. Make one with `acquire_board`.

    Attributes
    ----------
    name
        "KEY@HOST:PORT".
    facts
        What the board said about itself when it was taken: host, machine, cores, ...
    """

    def __init__(
        self, endpoint: Endpoint, match_key: str, key: str, glue: Callable[[], bytes]
    ) -> None:
        self.name = f"{key}@{endpoint}"
        self.is_lost = False
        self.facts: dict[str, str] = {}
        self._endpoint = endpoint
        from ofa_compile.remote import tvm_client  # seconds, which no time limit should contain

        self._client = tvm_client
        self._caller = Caller(f"board {self.name}", endpoint)
        self._session: Any = None
        self._functions: dict[str, Callable[..., Any]] = {}
        try:
            self._connect(match_key)
            self._find_functions(glue)
            self.facts = self.read_facts()
        except BaseException:
            self.close()
            raise

    def _connect(self, match_key: str) -> None:
        try:
            self._caller.call(self._open, match_key, limit_s=CONNECT_S)
        except CallTimeoutError:
            self.is_lost = True
            message = f"board {self.name} does not answer within {CONNECT_S:g} s"
            raise DeviceUnavailableError(message, hint="is its RPC server alive?") from None
        except self._client.CLIENT_ERRORS as error:
            self.is_lost = True
            message = f"cannot connect to board {self.name}: {_reason(error)}"
            hint = "check its address, its key and, if it asks for one, the token"
            raise DeviceUnavailableError(message, hint=hint) from error
        self._caller.own()

    def _find_functions(self, glue: Callable[[], bytes]) -> None:
        """Use the board's own functions, or teach it ours."""
        if all(self._call("look for", self._has, name) for name in (_RUN, _FACTS)):
            return
        self.put(GLUE_NAME, glue())
        try:
            self._guarded("load", self._load, GLUE_NAME, (_RUN, _FACTS))
        except self._client.CLIENT_ERRORS as error:
            message = f"board {self.name} cannot load the glue module: {_reason(error)}"
            raise DeviceUnavailableError(message, hint="is it of the target's kind?") from error

    # Run in the caller's thread. Only these touch objects of TVM: any other frame with one in it
    # would keep the session in TVM's table of 32 for as long as an exception's traceback lives.

    def _open(self, match_key: str) -> None:
        endpoint = self._endpoint
        self._session = self._client.connect(endpoint.host, endpoint.port, match_key)

    def _has(self, name: str) -> bool:
        if name not in self._functions:
            function = self._client.find(self._session, name)
            if function is not None:
                self._functions[name] = function
        return name in self._functions

    def _load(self, library: str, names: Sequence[str]) -> None:
        module = self._client.load_module(self._session, library)
        self._functions.update({name: module[name] for name in names})

    def _upload(self, name: str, data: bytes) -> None:
        self._client.upload(self._session, name, data)

    def _invoke(self, name: str, *arguments: Any) -> Any:
        return self._functions[name](*arguments)

    def _end(self) -> None:
        session, self._session = self._session, None
        self._functions.clear()
        if session is not None:
            self._client.close(session)

    @property
    def model(self) -> str:
        """What kind of board it is, without its address."""
        facts = self.facts
        core = facts.get("model name") or f"CPU part {facts.get('CPU part', 'unknown')}"
        return facts.get("board") or f"{core} ({facts.get('machine', 'unknown')})"

    def put(self, name: str, data: bytes) -> None:
        """Write a file into the session's folder on the board; it is gone after the session.

        Raises
        ------
        BoardLostError
            If the board fails, or the file cannot be written there.
        """
        limit_s = _CALL_S + len(data) / _BYTES_PER_S
        self._call(f"upload {name} to", self._upload, name, data, limit_s=limit_s)

    def get(self, name: str) -> bytes:
        """Read a file of the session's folder.

        Raises
        ------
        BoardLostError
            If the board fails, or has no such file.
        """
        return bytes(self.call_function("tvm.rpc.server.download", name, limit_s=4 * _CALL_S))

    def remove(self, name: str) -> None:
        """Remove a file of the session's folder."""
        self.call_function("tvm.rpc.server.remove", name)

    def run(self, command: Sequence[str], *, limit_s: float) -> ProgramResult:
        """Run an uploaded program in the session's folder.

        Parameters
        ----------
        command
            Plain name of the program and its arguments.
        limit_s
            When to kill it, and whatever it started.

        Raises
        ------
        BoardLostError
            If the board fails, or cannot start the program.
        """
        words = "".join(f"{word}\0" for word in command).encode()
        data = bytes(
            self._call(
                f"run {command[0]} on",
                self._invoke,
                _RUN,
                int(limit_s * 1000),
                words,
                limit_s=limit_s + _CALL_S,
            )
        )
        header, _, output = data.partition(b"\n")
        try:
            status, is_timed_out = (int(word) for word in header.split())
        except ValueError:
            self._lose(f"board {self.name} answered nonsense: {header[:40]!r}")
        text = output.decode(errors="replace")
        return ProgramResult(status=status, is_timed_out=bool(is_timed_out), output=text)

    def read_facts(self) -> dict[str, str]:
        """Return what the board says about itself now."""
        text = bytes(self._call("ask", self._invoke, _FACTS)).decode(errors="replace")
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {name: value for name, _, value in pairs}

    def call_function(self, name: str, *arguments: Any, limit_s: float | None = None) -> Any:
        """Call a global function of the board's TVM with numbers, texts and bytes.

        Raises
        ------
        BoardLostError
            If there is none, it fails, or it takes too long.
        """
        if not self._call("look for", self._has, name):
            message = f"board {self.name} has no function '{name}'"
            raise BoardLostError(message, hint="its server may be of another TVM version")
        doing = f"{name.rpartition('.')[2]} {arguments[0] if arguments else ''} on"
        return self._call(doing, self._invoke, name, *arguments, limit_s=limit_s)

    def _call(
        self, doing: str, function: Callable[..., T], *arguments: Any, limit_s: float | None = None
    ) -> T:
        try:
            return self._guarded(doing, function, *arguments, limit_s=limit_s)
        except self._client.CLIENT_ERRORS as error:
            self._lose(f"cannot {doing} board {self.name}: {_reason(error)}", error)

    def _guarded(
        self, doing: str, function: Callable[..., T], *arguments: Any, limit_s: float | None = None
    ) -> T:
        """Call with a time limit; errors of the client pass through."""
        self._check_held()
        limit_s = _CALL_S if limit_s is None else limit_s
        try:
            return self._caller.call(function, *arguments, limit_s=limit_s)
        except CallTimeoutError:
            message = f"board {self.name} did not answer within {limit_s:.3g} s when asked to "
            self._lose(f"{message}{doing.removesuffix(' on').removesuffix(' to')}")

    def _check_held(self) -> None:
        if self.is_lost:
            message = f"board {self.name} was lost or given back earlier"
            raise BoardLostError(message)

    def _lose(self, message: str, cause: BaseException | None = None) -> NoReturn:
        self.is_lost = True
        raise BoardLostError(message, hint="see the board's own log") from cause

    def interrupt(self) -> None:
        """Make the call that another thread is waiting for fail at once; the board is lost then."""
        self.is_lost = True
        self._caller.cut()

    def close(self) -> None:
        """Give the board back."""
        self.is_lost = True
        try:
            self._caller.call(self._end, limit_s=_CALL_S)
        except (CallTimeoutError, *self._client.CLIENT_ERRORS):
            self._caller.cut()
        self._caller.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_failure(board: str, reason: str) -> None:
    """Warn of a board that failed."""
    logger.warning("board %s: %s", board, reason)


def acquire_board(
    address: BoardAddress, glue: Callable[[], bytes], blame: Blame = log_failure
) -> Board:
    """Take a board; the caller closes it, best in a `with` block.

    Parameters
    ----------
    address
        Where to look, and how long.
    glue
        Makes the module for boards that run TVM's own server.
    blame
        Told of boards that the tracker offered and that could not be taken.

    Raises
    ------
    DeviceUnavailableError
        If the tracker cannot be reached, no board is free in time, or those that are do not answer.
    """
    suffix = f" -token={address.token}" if address.token else ""
    if not address.is_tracker:
        return Board(address.endpoint, address.key + suffix, address.key, glue)
    deadline = time.monotonic() + address.wait_s
    failures: dict[Endpoint, DeviceError] = {}
    while True:
        with Tracker(address.endpoint) as tracker:
            offer = tracker.request(address.key, max(0.0, deadline - time.monotonic()))
        if offer is None:
            raise _nothing_free(address, failures)
        try:
            return Board(offer.endpoint, offer.match_key + suffix, address.key, glue)
        except DeviceError as error:
            # The tracker offers boards that have just died; the next one may be well. One that
            # fails twice will not get better.
            blame(f"{address.key}@{offer.endpoint}", str(error))
            if offer.endpoint in failures or time.monotonic() >= deadline:
                raise
            failures[offer.endpoint] = error
            time.sleep(_PAUSE_S)


def _nothing_free(
    address: BoardAddress, failures: dict[Endpoint, DeviceError]
) -> DeviceUnavailableError:
    """Say why no board could be had."""
    with Tracker(address.endpoint) as tracker:
        known = tracker.summary()
    found = known.get(address.key, KeySummary(boards=(), num_free=0, num_waiting=0))
    count = len(found.boards)
    message = f"no board with key '{address.key}' was free within {address.wait_s:g} s: the tracker"
    message += f" at {address.endpoint} knows {count} of this key"
    others = [key for key, entry in known.items() if entry.boards and key != address.key]
    if not count and others:
        message += f", and boards with {', '.join(others)}"
    hint = "all are in use: wait, or raise 'runner.wait_s'" if count else "start one with this key"
    if failures:
        message += "; of those tried, " + "; ".join(map(str, failures.values()))
        hint = "mend those that failed, or wait for the others"
    return DeviceUnavailableError(message, hint=hint)


def unique_name(data: bytes) -> str:
    """Return a plain file name for some content."""
    return f"subnet-{hashlib.sha256(data).hexdigest()[:16]}"


def _reason(error: BaseException) -> str:
    """Return the last line of a TVM message, which is the one that says something."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[-1] if lines else type(error).__name__
    if any(sign in text for sign in _SIGNS_OF_A_LOST_CONNECTION):
        return "the connection was lost"
    return text[-400:]
