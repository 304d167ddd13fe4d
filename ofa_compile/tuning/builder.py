"""A pool of warm worker processes that build candidates."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from ofa_compile.compiler.kernel_registry import GpuMachine, VectorMachine
from ofa_compile.compiler.workload import Workload, workload_from_dict
from ofa_compile.errors import TuningError
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.database import Config
from ofa_compile.tuning.full_disk import check_disk
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, GpuLaunch, Job
from ofa_compile.tuning.worker import WorkerFailure
from ofa_compile.tuning.worker_pool import WorkerPool

logger = logging.getLogger(__name__)

_MODULES = {
    "cpu": "ofa_compile.tuning.build_worker",
    "gpu": "ofa_compile.tuning.gpu_build_worker",
}
# The first answer includes importing TVM, on a busy machine.
_TIMEOUT_S = 180.0


def _tools(target: TargetSpec) -> dict[str, Any]:
    """Return what a worker must know of the target, and of what builds for it."""
    common = {
        "tvm_target": target.tvm_target,
        "max_configs": target.tuning.max_trials_per_task,
        "precision": target.precision,
    }
    if target.is_gpu:
        return {
            **common,
            **_host_tools(),
            "machine": dataclasses.asdict(GpuMachine.of(target)),
            "gpu": {"kind": target.kind, "architectures": target.toolchain.gpu_architectures},
        }
    return {
        **common,
        **({} if target.is_native else _host_tools()),
        "machine": dataclasses.asdict(VectorMachine.of(target)),
        "is_native": target.is_native,
        "linker": find_linker(target).command,
    }


def _host_tools() -> dict[str, Any]:
    """Return what builds code for this machine, where the target's code is for another."""
    host = load_target("host")
    return {"host_target": host.tvm_target, "host_linker": find_linker(host).command}


class BuilderPool:
    """Builds jobs in worker processes that import TVM once.

    Parameters
    ----------
    target
        What to build for.
    num_parallel
        Worker processes.
    folder
        Where libraries go; they stay until the caller deletes the folder.
    """

    def __init__(self, target: TargetSpec, num_parallel: int, folder: Path) -> None:
        self.num_parallel = num_parallel
        self._folder = folder
        self._numbers = itertools.count()
        self._common = _tools(target)
        self._workers = WorkerPool(_MODULES[target.family], num_parallel)

    def network(self, path: Path) -> dict[Workload, float]:
        """Return the workloads of an ONNX file, and how often it has each.

        Raises
        ------
        TuningError
            If the file cannot be compiled.
        """
        reply = self._answer({"do": "network", "path": str(path.resolve())}, f"{path}")
        return {workload_from_dict(fields): float(n) for fields, n in reply["workloads"]}

    def describe(self, workloads: Sequence[Workload]) -> list[list[Config]]:
        """Return the configurations of each workload, the default first.

        Raises
        ------
        TuningError
            If the worker cannot import the kernels.
        """
        request = {"do": "describe", "workloads": [workload.to_dict() for workload in workloads]}
        return self._answer(request, "the kernels")["configs"]  # type: ignore[no-any-return]

    def _answer(self, request: dict[str, Any], what: str) -> dict[str, Any]:
        """Wait for the answer to a request that must not fail."""
        try:
            return self._workers.submit(self._ask, request).result()
        except (WorkerFailure, TuningError) as err:
            msg = f"{what} cannot be read: {err}"
            raise TuningError(msg) from err

    def submit(self, job: Job) -> Future[BuiltJob]:
        """Start building; a candidate that does not build is no error of the job."""
        return self._workers.submit(self._build, job)

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        self._workers.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        (reply,) = self._workers.worker.call({**self._common, **request}, _TIMEOUT_S)
        return reply

    def _build(self, job: Job) -> BuiltJob:
        start = time.monotonic()
        job = replace(job, configs=(*job.configs, *self._proposals(job)))
        candidates = self._candidates(job, self._folder / f"job_{next(self._numbers)}")
        return BuiltJob(job, tuple(candidates), time.monotonic() - start)

    def _proposals(self, job: Job) -> list[Config]:
        """Ask for schedules that MetaSchedule expects to be fast; none if its search fails."""
        if job.num_proposals == 0:
            return []
        request = {
            "do": "propose",
            "workload": job.workload.to_dict(),
            "count": job.num_proposals,
            "measured": [
                [record.config["trace"], record.time_us]
                for record in job.measured
                if "trace" in record.config
            ],
        }
        try:
            return self._ask(request)["configs"]  # type: ignore[no-any-return]
        except (WorkerFailure, TuningError) as err:
            check_disk(str(err))
            logger.warning("no schedules for %s: %s", job.workload.kind, err)
            return []

    def _candidates(self, job: Job, folder: Path) -> list[BuiltCandidate]:
        """Build all at once; if that fails, one by one, to find which it is."""
        folder.mkdir()
        request = {
            "do": "build",
            "workload": job.workload.to_dict(),
            "configs": list(job.configs),
            "folder": str(folder),
            # Objects of different requests may be linked into one program.
            "prefix": f"candidate_{next(self._numbers)}",
        }
        try:
            reply = self._ask(request)
        except (WorkerFailure, TuningError) as err:
            check_disk(str(err))
            if len(job.configs) == 1:
                return [BuiltCandidate(job.configs[0], str(err))]
            single = (Job(job.workload, (config,)) for config in job.configs)
            parts = [self._candidates(one, folder / str(n)) for n, one in enumerate(single)]
            return [candidate for part in parts for candidate in part]
        built = zip(job.configs, reply["candidates"], strict=True)
        return [_candidate(config, reply, fields) for config, fields in built]


def _candidate(
    config: Config, reply: Mapping[str, Any], fields: Mapping[str, Any]
) -> BuiltCandidate:
    """Read what a worker says about one candidate."""
    if "launches" in fields:
        launches = tuple(
            GpuLaunch(Path(launch["kernel"]), tuple(launch["buffers"]))
            for launch in fields["launches"]
        )
        data = Path(reply["data"])
        return BuiltCandidate(config, data=data, launches=launches, scratch=fields["scratch"])
    return BuiltCandidate(
        config,
        library=Path(reply["library"]),
        symbol=fields["symbol"],
        data=Path(reply["data"]),
        pointers=tuple(fields["pointers"]),
        num_tiles=fields["num_tiles"],
        fetch_steps=fields.get("fetch_steps", 0),
        fetch_bytes=fields.get("fetch_bytes", 0),
    )
