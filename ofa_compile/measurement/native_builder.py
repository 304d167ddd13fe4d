"""Build subnets for this machine and time them in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.dataset import CacheState
from ofa_compile.measurement.measure import Builder
from ofa_compile.space.architecture import Architecture

if TYPE_CHECKING:
    from ofa_compile.cache import Cache
    from ofa_compile.supernet.supernet import Supernet

# Larger than the last-level cache of most single sockets' share per core.
_FLUSH_BYTES = 64 * 2**20
_PREFIX = "ofa_measured_"


class NativeRunner:
    """A compiled subnet on this machine.

    Parameters
    ----------
    library
        The loaded library.
    threads
        Threads of a run.
    cache_state
        `cold` pushes weights and activations out of the caches before every run.
    """

    def __init__(
        self, library: NativeLibrary, *, threads: int = 1, cache_state: CacheState = "warm"
    ) -> None:
        self._library = library
        self._threads = threads
        rng = np.random.default_rng(0)
        self._input = rng.standard_normal(library.input_shape, dtype=np.float32)
        self._flushed = np.zeros(_FLUSH_BYTES // 8) if cache_state == "cold" else None

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Run `repeats` times and return the milliseconds of each run, of shape (repeats,)."""
        if self._flushed is None:
            return self._timed(repeats)
        times = np.empty(repeats)
        for number in range(repeats):
            self._flushed += 1.0
            times[number] = self._timed(1)[0]
        return times

    def close(self) -> None:
        """Unload the library."""
        self._library.close()

    def _timed(self, repeats: int) -> NDArray[np.float64]:
        """Time warm runs."""
        return self._library.time(self._input, repeats=repeats, warmup=0, threads=self._threads)


def native_builder(
    target: TargetSpec,
    supernet: Supernet,
    *,
    threads: int = 1,
    cache_state: CacheState = "warm",
    cache: Cache | None = None,
    tuned: dict[str, dict[str, Any]] | None = None,
) -> Builder:
    """Return a builder for `measure_subnets`: extract, export, compile, load.

    Parameters
    ----------
    target
        A target that this machine can run.
    supernet
        Where subnets come from; for times, fresh weights do as well as trained ones.
    threads, cache_state
        How the subnets run.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration.

    Raises
    ------
    DeviceUnavailableError
        If this machine cannot run the target's code.
    """
    if not target.is_native:
        msg = f"this machine cannot run code for {target.name}, so it cannot time it"
        hint = "an estimate stands in: `search` uses it by itself; or name a board (runner 'rpc')"
        raise DeviceUnavailableError(msg, hint=hint)
    from ofa_compile.export.onnx_export import export_onnx

    def build(architecture: Architecture, folder: Path) -> NativeRunner:
        path = folder / "subnet.onnx"
        subnet = supernet.extract(architecture)
        export_onnx(subnet, path, resolution=architecture.resolution, check=False)
        compiled = compile_onnx(
            path, target, folder, symbol_prefix=_PREFIX, cache=cache, tuned=tuned
        )
        library = NativeLibrary(compiled.library, _PREFIX)
        return NativeRunner(library, threads=threads, cache_state=cache_state)

    return build
