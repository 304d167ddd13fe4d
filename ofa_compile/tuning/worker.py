"""The parent's side of a worker process: ask, wait so long and no longer, replace what died."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from typing import IO, Any

from ofa_compile.errors import TuningError

# Imports on a busy machine; a candidate's own time-out begins when they are done.
_START_TIMEOUT_S = 120.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class WorkerFailure(Exception):
    """A worker gave no answer: it died, or it was silent for too long (`is_timeout`)."""

    def __init__(self, message: str, *, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.is_timeout = is_timeout


class Worker:
    """One process that answers requests; started when first needed, and again after a failure.

    The process ends with the thread that started it, so use a worker in one thread only. `kill`
    may be called from any.

    Parameters
    ----------
    module
        Module to run; it calls `serve`.
    environment
        What it has besides this process's variables, or in their place.
    """

    def __init__(self, module: str, environment: Mapping[str, str] = ONE_THREAD) -> None:
        self._module, self._environment = module, dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._pending = b""
        self._lock = threading.Lock()
        self._is_closed = False

    def call(self, request: dict[str, Any], timeout_s: float) -> Iterator[dict[str, Any]]:
        """Send a request and yield the replies, without the last one.

        Raises
        ------
        WorkerFailure
            If the process dies, or is silent for `timeout_s`; it is then killed.
        TuningError
            If the worker cannot start, or says that it cannot do what was asked.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            raise self._died() from None
        while True:
            reply = json.loads(self._read_line(process, timeout_s))
            if reply.get("done"):
                if "error" in reply:
                    raise TuningError(str(reply["error"]))
                return
            yield reply

    def retire(self) -> None:
        """End the process; the next request starts a new one."""
        if self._process is not None:
            self._bury()

    def kill(self) -> None:
        """End the process, for good; a call that waits for it fails."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process and free what it held; no call may be under way."""
        self.kill()
        self.retire()

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the process and wait until it is ready for requests."""
        with self._lock:
            if self._is_closed:
                msg = "the tuner is closing"
                raise WorkerFailure(msg)
            self._pending = b""
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **self._environment},
            )
        try:
            self._read_line(process, _START_TIMEOUT_S)
        except WorkerFailure as err:
            if self._is_closed:
                raise
            msg = f"{self._module} does not start: {err}"
            raise TuningError(msg) from err
        return process

    def _read_line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self._bury()
                msg = f"no answer within {timeout_s:.0f} s"
                raise WorkerFailure(msg, is_timeout=True)
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                raise self._died()
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _died(self) -> WorkerFailure:
        """Say how the process ended on its own."""
        return WorkerFailure(self._bury(killing=False))

    def _bury(self, *, killing: bool = True) -> str:
        """Wait for the process, closing what connects to it; say how it ended."""
        with self._lock:
            process, self._process = self._process, None
        assert process is not None
        if killing:
            process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # a request that it never read
                stream.close()
        code = process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the worker ended with {how}{self._last_words()}"

    def _last_words(self) -> str:
        """Return the end of what the process printed."""
        assert self._stderr is not None
        with self._stderr as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1000))
            text = stream.read().decode(errors="replace").strip()
        return f": {text}" if text else ""
