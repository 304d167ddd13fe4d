"""What builder and runner of a tuner hand to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ofa_compile.compiler.workload import Workload
from ofa_compile.tuning.database import Config, LatencyKind, Status, TuningRecord
from ofa_compile.tuning.tuning_board import TuningReport


@dataclass(frozen=True)
class Job:
    """Configurations of one workload that are built and measured together.

    Attributes
    ----------
    workload
        What is computed.
    configs
        How.
    num_proposals
        Further configurations that the builder looks for.
    measured
        Records of the workload, to guide it.
    """

    workload: Workload
    configs: tuple[Config, ...]
    num_proposals: int = 0
    measured: tuple[TuningRecord, ...] = ()

    @property
    def num_trials(self) -> int:
        """Trials it takes, at most."""
        return len(self.configs) + self.num_proposals

    def limited(self, num_trials: int) -> Job:
        """Return the same job with so many trials at most."""
        configs = self.configs[:num_trials]
        room = min(self.num_proposals, num_trials - len(configs))
        return replace(self, configs=configs, num_proposals=room)


@dataclass(frozen=True)
class GpuLaunch:
    """One launch of a candidate for a GPU.

    Attributes
    ----------
    kernel
        Its object file.
    buffers
        What its parameters point to: names of arrays in the candidate's data, of scratch, or
        "output".
    """

    kernel: Path
    buffers: tuple[str, ...]


@dataclass(frozen=True)
class BuiltCandidate:
    """One configuration after building.

    Attributes
    ----------
    config
        Which one.
    error
        Why it did not build; the rest is then empty.
    library, symbol
        Shared library for the target, and the kernel's name in it. Its object file lies beside it,
        and for targets that this machine cannot run it is there alone.
    data
        NumPy archive of float32 arrays: what the kernel reads, and `expected`, the right output.
    pointers
        Names of the arrays that the kernel takes, in order; a pointer to its output follows.
    num_tiles
        Tiles to compute.
    fetch_steps
        Inner steps at which the kernel can fetch data from memory for a later one.
    fetch_bytes
        How much it fetches at most in a network.
    launches
        For a GPU, in the place of the library: what to launch, in order.
    scratch
        Name -> number of values that the launches keep between them.
    """

    config: Config
    error: str | None = None
    library: Path = Path()
    symbol: str = ""
    data: Path = Path()
    pointers: tuple[str, ...] = ()
    num_tiles: int = 0
    fetch_steps: int = 0
    fetch_bytes: int = 0
    launches: tuple[GpuLaunch, ...] = ()
    scratch: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltJob:
    """A job ready to run."""

    job: Job
    candidates: tuple[BuiltCandidate, ...]
    build_s: float


@dataclass(frozen=True)
class TrialResult:
    """What running one candidate gave; the rest as in `TuningRecord`."""

    status: Status
    error: str | None = None
    time_us: float | None = None
    spread: float | None = None
    board: str | None = None


Results = dict[int, TrialResult]
"""By the candidate's place in the job."""


class Builder(Protocol):
    """Turns jobs into libraries, several at a time."""

    num_parallel: int

    def describe(self, workloads: Sequence[Workload]) -> list[list[Config]]:
        """Return the configurations of each workload, the default first; none without a kernel."""

    def submit(self, job: Job) -> Future[BuiltJob]:
        """Start building; a candidate that does not build is no error of the job."""

    def close(self) -> None:
        """Stop at once, whatever is under way."""


class Runner(Protocol):
    """Checks and times built jobs on a device, isolated from this process."""

    num_parallel: int
    kind: LatencyKind

    @property
    def boards(self) -> Sequence[TuningReport]:
        """What every board did; empty without boards."""

    def submit(self, built: BuiltJob) -> Future[list[TrialResult]]:
        """Start running; gives one result per candidate, failures included."""

    def close(self) -> None:
        """Stop at once, whatever is under way."""
