"""Build subnets for an engine on this machine (a WebAssembly runtime) and time them inside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.executor import Executable, emulator_command
from ofa_compile.bundle.manifest import describe_target
from ofa_compile.bundle.verify import verify
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.board_builder import build_subnet
from ofa_compile.measurement.latency import TimingConfig
from ofa_compile.space.architecture import Architecture

if TYPE_CHECKING:
    from ofa_compile.cache import Cache
    from ofa_compile.supernet.supernet import Supernet

# An engine compiles code twice: at once, and better when it has run for a while.
_WARMUP = 60
# A turn starts an engine, which takes some tens of milliseconds.
ENGINE_TIMING = TimingConfig(round_ms=60.0, warmup_ms=5.0, max_seconds=15.0, min_rounds=5)


class EngineRunner:
    """A compiled subnet; each turn is an engine of its own."""

    def __init__(self, executable: Executable) -> None:
        self._executable = executable

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Run `repeats` times and return the milliseconds of each run, of shape (repeats,)."""
        return self._executable.time(repeats=repeats, warmup=_WARMUP)


class EngineBuilder:
    """Builds subnets for `measure_subnets`, and checks what each computes before it is timed.

    Parameters
    ----------
    target
        A target whose platform runs inside an engine that this machine has.
    supernet
        Where subnets come from; for times, fresh weights do as well as trained ones.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration.

    Raises
    ------
    DeviceUnavailableError, MissingDependencyError
        If the engine is missing.
    """

    def __init__(
        self,
        target: TargetSpec,
        supernet: Supernet,
        *,
        cache: Cache | None = None,
        tuned: Mapping[str, Any] | None = None,
    ) -> None:
        self._command = emulator_command(describe_target(target))
        self._target, self._supernet, self._cache = target, supernet, cache
        self._tuned = dict(tuned or {})

    def __call__(self, architecture: Architecture, folder: Path) -> EngineRunner:
        """Return a runner of a subnet; `folder` is empty and lives as long."""
        built = build_subnet(
            architecture,
            folder,
            self._target,
            self._supernet,
            cache=self._cache,
            tuned=self._tuned,
        )
        executable = Executable(built.executable, built.logits.shape[1], self._command)
        verify(executable.run, built.inputs, built.logits, built.tolerance)
        return EngineRunner(executable)
