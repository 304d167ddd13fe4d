"""The child's side of a worker process: requests in, replies out, one JSON document a line.

A worker dies with its parent (the kernel sees to it), ignores Ctrl-C (the parent decides), and
keeps stray prints of libraries out of the protocol.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

Reply = Callable[..., None]
Handler = Callable[[dict[str, Any], Reply], None]

_PR_SET_PDEATHSIG = 1


def keep_torch_out() -> None:
    """Let nothing import torch: tvm_ffi would, which takes seconds, and no worker needs it."""
    sys.modules["torch"] = None  # type: ignore[assignment]


def serve_all(handlers: Mapping[str, Handler]) -> None:
    """Serve requests that say in `do` which handler is meant."""
    serve(lambda request, reply: handlers[request["do"]](request, reply))


def serve(handler: Handler) -> None:
    """Say `ready`, then answer requests from stdin; the last reply to each says `done`.

    Parameters
    ----------
    handler
        Called with the request and a function that sends one reply of the given fields. What it
        raises becomes the reply's `error`.
    """
    _die_with_parent(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A candidate's crash is expected; its core file is of no use to anyone.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def reply(**fields: Any) -> None:
        channel.write(json.dumps(fields) + "\n")
        channel.flush()

    reply(ready=True)
    for line in sys.stdin:
        try:
            handler(json.loads(line), reply)
        except Exception as err:  # everything goes to the parent, which knows what to make of it
            reply(done=True, error=f"{type(err).__name__}: {err}")
        else:
            reply(done=True)


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)
