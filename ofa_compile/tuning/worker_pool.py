"""Several worker processes at a time, each asked from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ofa_compile.tuning.worker import ONE_THREAD, Worker

T = TypeVar("T")


class WorkerPool:
    """Threads that have a worker each.

    Parameters
    ----------
    module
        Module that the workers run.
    num_parallel
        How many there are; each starts when it is first asked.
    environment
        Variables that they have in the place of this process's.
    """

    def __init__(
        self, module: str, num_parallel: int, environment: Mapping[str, str] = ONE_THREAD
    ) -> None:
        self._module, self._environment = module, environment
        self._workers: list[Worker] = []
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(num_parallel, "ofa-worker", self._make_worker)

    @property
    def worker(self) -> Worker:
        """The worker of the thread that asks, which must be one of the pool."""
        return self._local.worker  # type: ignore[no-any-return]

    def submit(self, task: Callable[..., T], *arguments: object) -> Future[T]:
        """Call a function in the next free thread."""
        return self._threads.submit(task, *arguments)

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _make_worker(self) -> None:
        self._local.worker = Worker(self._module, self._environment)
        self._workers.append(self._local.worker)
