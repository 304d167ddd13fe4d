"""TVM's own RPC server in one process: prints its port, serves until it is ended."""

import ctypes
import signal
import sys

# tvm_ffi imports torch where it can, and this process has no use for it.
sys.modules["torch"] = None  # type: ignore[assignment]

from tvm.rpc.server import PopenRPCServerState  # noqa: E402

PR_SET_PDEATHSIG = 1


def main(key: str, tracker: str) -> None:
    # A test that is killed cannot end its servers.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    host, _, port = tracker.rpartition(":")
    address = (host, int(port)) if host else None
    # A range of its own for each process keeps parallel tests apart.
    server = PopenRPCServerState(
        "127.0.0.1", 20_000, 40_000, key=key, tracker_addr=address, silent=True
    )
    print(server.port, flush=True)
    server.thread.join()


main(*sys.argv[1:])
