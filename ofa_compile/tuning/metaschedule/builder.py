"""Builds MetaSchedule's candidates in worker processes that import TVM once."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ofa_compile.compiler.tvm_api import derived_object, meta_schedule, tvm
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.attempts import ask_for_each, settle
from ofa_compile.tuning.full_disk import check_disk
from ofa_compile.tuning.worker import WorkerFailure
from ofa_compile.tuning.worker_pool import WorkerPool

_MODULE = "ofa_compile.tuning.module_build_worker"
# Linking costs as much as compiling four small functions; more than this gains little.
_MAX_JOINT = 16


@derived_object
class WarmBuilder(meta_schedule.builder.PyBuilder):  # type: ignore[misc]
    """Builder whose workers stay: no process imports TVM for a batch, as the stock one's do.

    A candidate that does not build, takes too long or takes its worker down is a result that says
    so; the others are built. Close it when done, for instance with `contextlib.closing`.

    Parameters
    ----------
    max_workers
        Worker processes; as many as there are cores if None.
    timeout_s
        Limit for a candidate.
    is_joint
        Whether candidates for processors are linked together, for `IsolatedRunner` on this
        machine. Otherwise each is a file as of the stock builder, for any runner.

    Raises
    ------
    MissingDependencyError
        If candidates are to be linked, and this machine has no linker.
    """

    def __init__(
        self, *, max_workers: int | None = None, timeout_s: float = 30.0, is_joint: bool = True
    ) -> None:
        super().__init__()
        self._num_workers = max_workers or len(os.sched_getaffinity(0))
        self._timeout_s = timeout_s
        self._common = {
            "is_joint": is_joint,
            "linker": find_linker(load_target("host")).command if is_joint else [],
        }
        self._folder = tempfile.TemporaryDirectory(prefix="ofa-metaschedule-")
        self._numbers = itertools.count()
        self._workers = WorkerPool(_MODULE, self._num_workers)
        for _ in range(self._num_workers):  # to start them, while the tuner prepares itself
            self._workers.submit(self._attempt, [])

    def build(self, build_inputs: Sequence[Any]) -> list[Any]:
        """Build candidates; gives one result for each, failures included.

        Raises
        ------
        TuningError
            If workers cannot start, or the disk is full.
        """
        encoded = [
            {"module": tvm.ir.save_json(item.mod), "target": tvm.ir.save_json(item.target)}
            for item in build_inputs
        ]
        size = max(1, min(_MAX_JOINT, -(-len(encoded) // self._num_workers)))
        groups = [encoded[start : start + size] for start in range(0, len(encoded), size)]
        futures = [self._workers.submit(settle, group, self._attempt, {}) for group in groups]
        return [result for future in futures for result in future.result()]

    def close(self) -> None:
        """Stop at once, whatever is under way, and delete what was built."""
        self._workers.close()
        self._folder.cleanup()

    def _attempt(self, candidates: list[dict[str, Any]]) -> dict[int, Any]:
        """Build candidates together; if the worker fails, return the one it failed on."""
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        request = {**self._common, "folder": str(folder), "candidates": candidates}
        replies = ask_for_each(self._workers.worker, request, self._timeout_s)
        return {number: _result(reply) for number, reply in replies.items()}


def _result(reply: dict[str, Any] | WorkerFailure) -> Any:
    if isinstance(reply, WorkerFailure):
        reply = {"error": str(reply)}
    error = reply.get("error")
    if error is not None:
        check_disk(error)
    return meta_schedule.builder.BuilderResult(reply.get("artifact"), error)
