"""Build subnets for this machine and time them in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.atomic_file import replacing
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.int8.prepare import calibration_for_timing
from ofa_compile.errors import DeviceUnavailableError, UserInputError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.measurement.dataset import CacheState
from ofa_compile.measurement.latency import LoadedSeveralTimes
from ofa_compile.space.architecture import Architecture
from ofa_compile.space.registry import search_space

if TYPE_CHECKING:
    from ofa_compile.cache import Cache
    from ofa_compile.supernet.supernet import Supernet

# Larger than the last-level cache of most single sockets' share per core.
_FLUSH_BYTES = 64 * 2**20
_PREFIX = "ofa_measured_"
# In how many places of memory a subnet is timed.
_PLACES = 3


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


class NativeBuilder:
    """Builds subnets for `measure_subnets`: extract, export, compile, load.

    Parameters
    ----------
    target
        A target that this machine can run.
    supernet
        Where subnets come from; for times, fresh weights do as well as trained ones, and those of
        an architecture's own space are made when it is None.
    threads, batch, cache_state
        How the subnets run.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration.
    ahead
        Folder of libraries that were built before (`build_ahead`): they only have to be loaded, so
        that nothing but measuring happens while the machine is kept quiet.

    Raises
    ------
    DeviceUnavailableError
        If this machine cannot run the target's code.
    """

    def __init__(
        self,
        target: TargetSpec,
        supernet: Supernet | None = None,
        *,
        threads: int = 1,
        batch: int = 1,
        cache_state: CacheState = "warm",
        cache: Cache | None = None,
        tuned: dict[str, dict[str, Any]] | None = None,
        ahead: Path | None = None,
    ) -> None:
        if not target.is_native:
            msg = f"this machine cannot run code for {target.name}, so it cannot time it"
            hint = "`search` estimates instead; or name a board (runner.kind = 'rpc')"
            raise DeviceUnavailableError(msg, hint=hint)
        self._target, self._supernet, self._cache, self._tuned = target, supernet, cache, tuned
        self._run_options: dict[str, Any] = {"threads": threads, "cache_state": cache_state}
        self._ahead, self._batch = ahead, batch

    def __call__(self, architecture: Architecture, folder: Path) -> LoadedSeveralTimes:
        """Return a runner of a subnet; `folder` is empty and lives as long."""
        library = self._path_ahead(architecture)
        if library is None or not library.is_file():
            library = self._build(architecture, folder)
        return LoadedSeveralTimes(
            [self._loaded(library, folder / f"place-{n}.so") for n in range(_PLACES)]
        )

    def _loaded(self, library: Path, copy: Path) -> NativeRunner:
        # A copy has pages of its own, wherever else the library is loaded.
        shutil.copyfile(library, copy)
        return NativeRunner(NativeLibrary(copy, _PREFIX), **self._run_options)

    def build_ahead(self, architecture: Architecture, folder: Path) -> bool:
        """Put a subnet's library into the folder for it; False if it is there already.

        Parameters
        ----------
        architecture
            The subnet.
        folder
            Empty folder to build in.

        Raises
        ------
        UserInputError
            If the library cannot be written.
        """
        path = self._path_ahead(architecture)
        assert path is not None  # made with `ahead`
        if path.is_file():
            return False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            built = self._build(architecture, folder)
            with replacing(path) as staging:
                shutil.move(built, staging)
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise UserInputError(msg, hint="check free space and permissions") from error
        return True

    def forget(self, architectures: Iterable[Architecture]) -> None:
        """Delete what was built ahead for these; in a large space that is gigabytes."""
        for architecture in architectures:
            path = self._path_ahead(architecture)
            if path is not None:
                path.unlink(missing_ok=True)

    def _path_ahead(self, architecture: Architecture) -> Path | None:
        return self._ahead / f"{architecture.hash}.so" if self._ahead else None

    def _build(self, architecture: Architecture, folder: Path) -> Path:
        from ofa_compile.export.onnx_export import export_onnx

        path = folder / "subnet.onnx"
        subnet = self._supernet_of(architecture).extract(architecture)
        resolution = architecture.resolution
        export_onnx(subnet, path, resolution=resolution, batch=self._batch, check=False)
        compiled = compile_onnx(
            path,
            self._target,
            folder,
            symbol_prefix=_PREFIX,
            cache=self._cache,
            tuned=self._tuned,
            calibration=calibration_for_timing(self._target, resolution),
        )
        return compiled.library

    def _supernet_of(self, architecture: Architecture) -> Supernet:
        if self._supernet is None:
            # PyTorch takes seconds to import: not where all was built ahead.
            from ofa_compile.supernet import load_supernet

            self._supernet = load_supernet(None, space=search_space(architecture.space))
        return self._supernet
