"""Measure many subnets of a space on one target, into a data set that survives anything."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ofa_compile.errors import MeasurementError, OfaCompileError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.dataset import CacheState, LatencyDataset, LatencyRecord, Role
from ofa_compile.measurement.energy import Meter, joules_per_run
from ofa_compile.measurement.latency import Reference, Runner, TimingConfig, measure_latency
from ofa_compile.measurement.machine import machine_facts
from ofa_compile.measurement.sample_log import SampleLog
from ofa_compile.progress import ProgressCallback, no_progress
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.search_space import SearchSpace

logger = logging.getLogger(__name__)

Builder = Callable[[Architecture, Path], Runner]

# Give up when this share of at least so many subnets failed: the target itself is broken then.
_MAX_FAILED_SHARE = 0.5
_MIN_FOR_SHARE = 6


@dataclass(frozen=True, kw_only=True)
class MeasureReport:
    """What a run of `measure_subnets` did.

    Attributes
    ----------
    num_measured, num_failed, num_skipped
        Subnets measured now, failed now, and found in the data set already.
    num_total
        Successful samples of this target in the data set now.
    num_not_converged
        Of those measured now, how many ran out of time before the confidence interval was narrow.
    median_spread
        Median over those measured now of the spread between rounds, as a fraction.
    median_images_per_s
        Median over those measured now of the images in a second: a batch over its latency.
    median_energy_mj
        Median over those measured now of the energy of an inference; None where nothing counts it.
    """

    num_measured: int
    num_failed: int
    num_skipped: int
    num_total: int
    num_not_converged: int
    median_spread: float | None
    median_images_per_s: float | None = None
    median_energy_mj: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How subnets are run.

    Attributes
    ----------
    timing
        How long and how exactly each is timed.
    threads
        Threads of the subnet, for the record; `build` sets them.
    batch, cache_state
        Images of one run, and whether the caches are warm or flushed before each, likewise.
    pins_core
        Keep a one-thread run on the core it is on.
    code
        Names the version of the code generator and its tuning. Records of another one are not
        continued: they are times of other programs.
    """

    timing: TimingConfig = dataclasses.field(default_factory=TimingConfig)
    threads: int = 1
    batch: int = 1
    cache_state: CacheState = "warm"
    pins_core: bool = True
    code: str = ""


def measure_subnets(
    space: SearchSpace,
    target: TargetSpec,
    wanted: Sequence[Architecture],
    *,
    build: Builder,
    dataset: LatencyDataset,
    num_repeats: int = 0,
    max_seconds: float | None = None,
    config: MeasureConfig | None = None,
    meter: Meter | None = None,
    progress: ProgressCallback = no_progress,
) -> MeasureReport:
    """Measure until the data set holds the subnets wanted; what it holds already is kept.

    Parameters
    ----------
    space, target
        What to measure, and on what.
    wanted
        Which subnets the data set shall hold.
    build
        Makes a runner of an architecture; gets an empty folder that lives as long as the runner.
        A runner with a `close` method is closed.
    dataset
        Where records go, one by one.
    num_repeats
        How many of the first of them to measure once more at the end, loaded anew: how well
        measurements repeat bounds how well anything can predict them.
    max_seconds
        Start no further subnet after this time; another run continues.
    config
        How they are run.
    meter
        Counts the energy of the device that runs them.
    progress
        Called after each subnet.

    Raises
    ------
    MeasurementError
        If the reference network fails, or half of the subnets.
    ArtifactError
        If the data set cannot be read or written.
    """
    log = SampleLog(space, target, dataset, config or MeasureConfig())
    session = _Session(log, build, meter)
    deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
    todo: list[tuple[Architecture, Role]] = [(a, "sample") for a in wanted if not log.is_done(a)]
    todo += [(a, "repeat") for a in wanted[:num_repeats] if not log.is_repeated(a)]
    num_wanted = len(wanted) + len(wanted[:num_repeats])
    done: list[LatencyRecord] = []
    progress("measure", num_wanted - len(todo), num_wanted)
    if todo:
        with session.ready():
            for number, (architecture, role) in enumerate(todo, start=1):
                if time.monotonic() > deadline:
                    break
                done.append(session.measure(architecture, role))
                check_failures(done)
                progress("measure", num_wanted - len(todo) + number, num_wanted)
    return report_of(log, done, num_wanted - len(todo))


class _Session:
    """One run of `measure_subnets`: a reference network in place, and what is known already."""

    def __init__(self, log: SampleLog, build: Builder, meter: Meter | None) -> None:
        self.log, self.build, self.meter = log, build, meter
        self._reference: Reference | None = None

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """Pin the core and hold the reference network for the time of the block."""
        config, log = self.log.config, self.log
        pins = config.pins_core and config.threads == 1
        with _pinned() if pins else contextlib.nullcontext():  # noqa: SIM117 - order matters
            with self._built(log.reference_architecture) as runner:
                self._reference = Reference(runner, anchor_ms=log.anchor_ms, config=config.timing)
                if log.anchor_ms is None:
                    log.write_anchor(self._reference.anchor_ms, machine_facts())
                yield
        self._reference = None

    def measure(self, architecture: Architecture, role: Role = "sample") -> LatencyRecord:
        """Build, time and record one subnet; a failure is recorded too."""
        reference = self._reference
        assert reference is not None  # inside `ready`
        try:
            with self._built(architecture) as runner:
                figures = dataclasses.asdict(measure_latency(runner, reference))
                if self.meter is not None:
                    figures["energy_joules"] = joules_per_run(runner, self.meter)
        except OfaCompileError as error:
            logger.warning("subnet %s failed: %s", architecture.short_hash, error)
            figures = failure(error)
        return self.log.append(architecture, role=role, machine=machine_facts(), **figures)

    @contextlib.contextmanager
    def _built(self, architecture: Architecture) -> Iterator[Runner]:
        """Build a runner and clean up after it."""
        with tempfile.TemporaryDirectory(prefix="ofa-compile-measure-") as folder:
            runner = self.build(architecture, Path(folder))
            try:
                yield runner
            finally:
                close = getattr(runner, "close", None)
                if close is not None:
                    close()


def failure(error: OfaCompileError) -> dict[str, Any]:
    """Return the figures of a subnet that could not be measured."""
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def check_failures(done: list[LatencyRecord]) -> None:
    """Stop when so much fails that going on is of no use."""
    failed = [record for record in done if record.status == "failed"]
    if len(done) >= _MIN_FOR_SHARE and len(failed) >= _MAX_FAILED_SHARE * len(done):
        msg = f"{len(failed)} of {len(done)} subnets failed, the last one with {failed[-1].error}"
        raise MeasurementError(msg, hint="run `ofa-compile doctor`; a second run continues")


def report_of(log: SampleLog, done: list[LatencyRecord], num_skipped: int) -> MeasureReport:
    """Count what happened."""
    measured = [record for record in done if record.status == "ok"]
    spreads = sorted(record.spread for record in measured if record.spread is not None)
    speeds = [1e3 * record.batch / record.median_ms for record in measured if record.median_ms]
    energies = [record.energy_mj for record in measured if record.energy_mj is not None]
    return MeasureReport(
        num_measured=len(measured),
        num_failed=len(done) - len(measured),
        num_skipped=num_skipped,
        num_total=log.num_total,
        num_not_converged=sum(not record.is_converged for record in measured),
        median_spread=spreads[len(spreads) // 2] if spreads else None,
        median_images_per_s=median(speeds) if speeds else None,
        median_energy_mj=median(energies) if energies else None,
    )


@contextlib.contextmanager
def _pinned() -> Iterator[None]:
    """Keep this thread on one core, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
