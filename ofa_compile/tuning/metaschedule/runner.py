"""Runs MetaSchedule's candidates in a process that may crash or hang without harm."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ofa_compile.compiler.tvm_api import derived_object, meta_schedule
from ofa_compile.errors import TuningError
from ofa_compile.tuning.attempts import ask_for_each, settle
from ofa_compile.tuning.full_disk import check_disk
from ofa_compile.tuning.metaschedule.references import References
from ofa_compile.tuning.worker import WorkerFailure
from ofa_compile.tuning.worker_pool import WorkerPool

_MODULE = "ofa_compile.tuning.module_measure_worker"
# Plain loops of a large operator take seconds.
_PREPARE_S = 300.0
# As long as the stock runner's, but spread over five rounds.
_TIMING = meta_schedule.runner.EvaluatorConfig(number=1, repeat=5, min_repeat_ms=20)


@derived_object
class IsolatedRunner(meta_schedule.runner.PyRunner):  # type: ignore[misc]
    """Runner whose candidates may crash, hang or compute nonsense.

    Each of these is a result that says so; the others are measured. The candidates of a batch are
    timed in shared rounds, so that a busy moment hits all of them. Close it when done, for
    instance with `contextlib.closing`.

    Parameters
    ----------
    reference
        The functions that are tuned, as they are: an IRModule or a PrimFunc. What they compute is
        right. A candidate that takes the same arguments as one of them, or several, must compute
        the same as that, or as one of those; others are not checked.
    timing
        How candidates are timed, as for the stock runner; `repeat` is the number of rounds.
    timeout_s
        A candidate that is silent for so long hangs.
    threads
        Threads that a candidate may use; as TVM has it if None.

    Raises
    ------
    BuildError
        If a function of the reference cannot be compiled for this machine.
    MissingDependencyError
        If this machine has no linker.
    """

    def __init__(
        self,
        reference: Any = None,
        *,
        timing: Any = _TIMING,
        timeout_s: float = 10.0,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        self._timing, self._timeout_s = timing, timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="ofa-metaschedule-")
        try:
            self._references = References(reference, Path(self._folder.name))
        except Exception:
            self._folder.cleanup()
            raise
        self._prepared: dict[str, dict[str, Any] | str] = {}
        # One: more would disturb each other.
        self._workers = WorkerPool(_MODULE, 1, _environment(threads))
        self._workers.submit(self._start)

    def run(self, runner_inputs: Sequence[Any]) -> list[Any]:
        """Run candidates and wait for them, as a search beside it would disturb what is timed.

        Raises
        ------
        TuningError
            If the worker cannot start, or the disk is full.
        """
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, item in enumerate(runner_inputs):
            arguments = json.dumps([info.as_json()[1:] for info in item.args_info])
            groups[str(item.device_type), arguments].append(number)
        results: dict[int, Any] = {}
        for (device, arguments), numbers in groups.items():
            artifacts = [str(runner_inputs[number].artifact_path) for number in numbers]
            found = self._workers.submit(self._run, device, arguments, artifacts).result()
            results |= dict(zip(numbers, found, strict=True))
        return [_future(results[number]) for number in range(len(runner_inputs))]

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        self._workers.close()
        self._folder.cleanup()

    def _start(self) -> None:
        """Start the worker, while the tuner prepares itself; a failure shows in the first batch."""
        list(self._workers.worker.call({"do": "start"}, _PREPARE_S))

    def _run(self, device: str, arguments: str, artifacts: list[str]) -> list[Any]:
        if arguments not in self._prepared:
            self._prepared[arguments] = self._prepare(arguments)
        prepared = self._prepared[arguments]
        if isinstance(prepared, str):
            return [_result({"error": prepared}) for _ in artifacts]
        common = {
            **prepared,
            "do": "run",
            "device": device,
            "number": self._timing.number,
            "rounds": self._timing.repeat,
            "turn_s": 1e-3 * self._timing.min_repeat_ms,
            "flush_cache": self._timing.enable_cpu_cache_flush,
        }

        def attempt(some: list[str]) -> dict[int, Any]:
            worker = self._workers.worker
            found = ask_for_each(worker, {**common, "artifacts": some}, self._timeout_s)
            results = {number: _result(reply) for number, reply in found.items()}
            if any(result.error_msg is not None for result in results.values()):
                worker.retire()  # who knows what else it wrote to
            return results

        return settle(artifacts, attempt, {})

    def _prepare(self, arguments: str) -> dict[str, Any] | str:
        """Have values made for such arguments, and what is right; say why that cannot be done."""
        data = Path(self._folder.name) / f"data_{len(self._prepared)}.npz"
        references = self._references.of(arguments)
        request = {
            "do": "prepare",
            "arguments": json.loads(arguments),
            "library": str(self._references.library),
            "references": references,
            "data": str(data),
        }
        try:
            list(self._workers.worker.call(request, _PREPARE_S))
        except (TuningError, WorkerFailure) as error:
            check_disk(str(error))
            return f"the reference cannot be run: {error}"
        return {"data": str(data), "num_references": len(references)}


def _environment(threads: int | None) -> dict[str, str]:
    if threads is not None:
        return {"TVM_NUM_THREADS": str(threads)}
    return {}


def _result(reply: Mapping[str, Any] | WorkerFailure) -> Any:
    if isinstance(reply, WorkerFailure):
        reply = {"error": str(reply)}
    error = reply.get("error")
    seconds = None if error is not None else [reply["seconds"]]
    return meta_schedule.runner.RunnerResult(seconds, error)


def _future(result: Any) -> Any:
    return meta_schedule.runner.RunnerFuture(lambda: True, lambda: result)
