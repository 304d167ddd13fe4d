"""A GPU of this machine, used by a process that may crash or hang without harm."""

from __future__ import annotations

from ofa_compile.errors import TuningError
from ofa_compile.hardware.gpu_devices import check_gpu
from ofa_compile.tuning.gpu_program import BUDGET_MS, ROUNDS, TIMEOUT_S, CandidateNetwork
from ofa_compile.tuning.jobs import Results, TrialResult
from ofa_compile.tuning.worker import Worker, WorkerFailure

_MODULE = "ofa_compile.tuning.gpu_measure_worker"


class GpuHere:
    """Runs networks one after the other in a worker process, which is replaced when it fails.

    Parameters
    ----------
    kind
        Kind of the target.
    timeout_s
        A network that is silent for so long hangs.

    Raises
    ------
    DeviceUnavailableError
        If this machine has no such GPU.
    """

    num_parallel = 1  # more would disturb each other
    takes_programs = False
    reports = ()

    def __init__(self, kind: str, *, timeout_s: float = TIMEOUT_S) -> None:
        check_gpu(kind)
        self._timeout_s = timeout_s
        self._worker = Worker(_MODULE)

    def run(self, network: CandidateNetwork) -> Results | TrialResult:
        """Return the result of every candidate, or how the network of all of them failed."""
        request = {
            "library": str(network.path),
            "rounds": ROUNDS,
            "budget_ms": BUDGET_MS,
            "data": str(network.data),
            "is_tf32": network.is_tf32,
            "outputs": network.outputs,
            "num_launches": network.num_launches,
        }
        found: Results = {}
        try:
            for reply in self._worker.call(request, self._timeout_s):
                number = reply.pop("result")
                found[number] = TrialResult(**reply)
        except TuningError as error:  # the device says so
            return TrialResult("crash", str(error))
        except WorkerFailure as failure:
            return TrialResult("timeout" if failure.is_timeout else "crash", str(failure))
        return found

    def stop(self) -> None:
        """End the process for good, whatever it does."""
        self._worker.kill()

    def close(self) -> None:
        """Free what the process held."""
        self._worker.close()
