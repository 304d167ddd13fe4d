"""TVM's own RPC server in one process: prints its port, serves until it is ended."""

import sys

# tvm_ffi imports torch where it can, and this process has no use for it.
sys.modules["torch"] = None  # type: ignore[assignment]

from tvm.rpc.server import PopenRPCServerState  # noqa: E402


def main(key: str, tracker: str) -> None:
    host, _, port = tracker.rpartition(":")
    address = (host, int(port)) if host else None
    # A range of its own for each process keeps parallel tests apart.
    server = PopenRPCServerState(
        "127.0.0.1", 20_000, 40_000, key=key, tracker_addr=address, silent=True
    )
    print(server.port, flush=True)
    server.thread.join()


main(*sys.argv[1:])
