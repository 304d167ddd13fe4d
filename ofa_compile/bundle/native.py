"""Call a bundle's shared library in this process."""

from __future__ import annotations

import _ctypes
import ctypes
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import ArtifactError, DeviceError, MeasurementError

_FLOATS = ctypes.POINTER(ctypes.c_float)
_DOUBLES = ctypes.POINTER(ctypes.c_double)
_SIZES = ctypes.POINTER(ctypes.c_int64)


class NativeLibrary:
    """A loaded `libsubnet.so`.

    Calls from several threads are safe and take turns. `close` (or a `with` block) unloads it,
    which matters where hundreds of subnets are measured in one process.

    Parameters
    ----------
    path
        The library.
    prefix
        Start of its names: `symbol_prefix` of the manifest.

    Raises
    ------
    ArtifactError
        If it cannot be loaded or is another subnet's.
    """

    def __init__(self, path: str | Path, prefix: str) -> None:
        self.path = Path(path)
        self._prefix = prefix
        self._library = _load(self.path)
        int_, pointer = ctypes.c_int, ctypes.c_void_p
        self._input_shape = self._function("input_shape", int_, _SIZES)
        self._output_shape = self._function("output_shape", int_, _SIZES)
        self._run = self._function("run", int_, pointer, pointer)
        self._set_threads = self._function("set_threads", int_, int_)
        self._time = self._function("time", int_, pointer, pointer, int_, int_, _DOUBLES)
        self._num_steps = self._function("num_steps", int_)
        self._time_steps = self._function(
            "time_steps", int_, pointer, pointer, int_, int_, _DOUBLES
        )
        self._error = self._function("error", ctypes.c_char_p, int_)
        self._version = self._function("version", ctypes.c_char_p)
        self._arena_bytes = self._function("arena_bytes", ctypes.c_size_t)
        self.input_shape = self._shape(self._input_shape, 4)
        self.output_shape = self._shape(self._output_shape, 2)
        self._threads = 1

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        try:
            function = self._library[self._prefix + name]
        except AttributeError as error:
            msg = f"{self.path} does not export {self._prefix}{name}"
            raise ArtifactError(msg, hint="library and manifest are not of one bundle") from error
        function.restype = result
        function.argtypes = arguments
        return function

    @staticmethod
    def _shape(function: Any, length: int) -> tuple[int, ...]:
        values = (ctypes.c_int64 * length)()
        function(values)
        return tuple(values)

    @property
    def version(self) -> str:
        """What was compiled, and by which version."""
        return str(self._version().decode())

    @property
    def arena_bytes(self) -> int:
        """Scratch memory of one run in bytes."""
        return int(self._arena_bytes())

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on.

        Raises
        ------
        DeviceError
            If they cannot be started.
        """
        if threads != self._threads:
            self._check(self._set_threads(threads))
            self._threads = threads

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the logits of float32 inputs of shape (N, 3, H, W), any N.

        Returns
        -------
        float32 array of shape (N, classes).
        """
        batch, size = self.input_shape[0], len(x)
        padded = pad_batch(x, batch)
        logits = np.empty((len(padded), self.output_shape[1]), dtype=np.float32)
        for start in range(0, len(padded), batch):
            stop = start + batch
            self._check(self._run(padded[start:stop].ctypes.data, logits[start:stop].ctypes.data))
        return logits[:size]

    def time(
        self, x: NDArray[np.float32], *, repeats: int = 50, warmup: int = 3, threads: int = 1
    ) -> NDArray[np.float64]:
        """Time runs on one batch inside the library, with no Python in between.

        Parameters
        ----------
        x
            float32 array of at most one batch.
        repeats, warmup
            Timed runs, and untimed ones before them.
        threads
            Threads to use.

        Returns
        -------
        Milliseconds of each run, of shape (repeats,).
        """
        return self._call_timed(self._time, x, (repeats,), warmup, threads)

    def time_steps(
        self, x: NDArray[np.float32], *, repeats: int = 50, warmup: int = 3, threads: int = 1
    ) -> NDArray[np.float64]:
        """Time each kernel call of runs on one batch; parameters as for `time`.

        Returns
        -------
        Milliseconds of each step of each run, of shape (repeats, steps).
        """
        shape = (repeats, int(self._num_steps()))
        return self._call_timed(self._time_steps, x, shape, warmup, threads)

    def time_device(
        self, x: NDArray[np.float32], *, repeats: int = 50, warmup: int = 3
    ) -> NDArray[np.float64]:
        """Time runs by a GPU's own clock: the kernels alone, neither copies nor waiting.

        Parameters are those of `time`, and so is the result; on a processor it is the same.

        Raises
        ------
        ArtifactError
            If the library was compiled before it had this function.
        """
        pointer = ctypes.c_void_p
        function = self._function(
            "time_device", ctypes.c_int, pointer, pointer, ctypes.c_int, ctypes.c_int, _DOUBLES
        )
        return self._call_timed(function, x, (repeats,), warmup, 1)

    def _call_timed(
        self,
        function: Any,
        x: NDArray[np.float32],
        shape: tuple[int, ...],
        warmup: int,
        threads: int,
    ) -> NDArray[np.float64]:
        self.set_threads(threads)
        padded = pad_batch(x, self.input_shape[0])
        if len(padded) != self.input_shape[0]:
            msg = f"{len(x)} inputs to time, but one run takes {self.input_shape[0]}"
            raise MeasurementError(msg)
        logits = np.empty(self.output_shape, dtype=np.float32)
        times = np.empty((max(shape[0], 0), *shape[1:]), dtype=np.float64)
        pointer = times.ctypes.data_as(_DOUBLES)
        self._check(function(padded.ctypes.data, logits.ctypes.data, warmup, shape[0], pointer))
        return times

    def _check(self, code: int) -> None:
        if code != 0:
            msg = f"{self.path.name}: {self._error(code).decode()}"
            raise DeviceError(msg)

    def close(self) -> None:
        """Unload the library; its threads end and its memory is freed."""
        if self._library is not None:
            handle, self._library = self._library._handle, None
            _ctypes.dlclose(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _load(path: Path) -> Any:
    """Load a library under a name of its own.

    The dynamic linker takes a path that it has seen for the same library, even when a new bundle
    has replaced the file.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="ofa-compile-") as folder:
            link = Path(folder) / path.name
            link.symlink_to(path.resolve(strict=True))
            return ctypes.CDLL(str(link))
    except OSError as error:
        msg = f"cannot load {path}: {error.strerror or error}"
        raise ArtifactError(msg, hint="it must be built for this machine") from error


def pad_batch(x: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """Return inputs as C-contiguous float32, filled up with zeros to whole batches."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    missing = -len(x) % batch
    if missing == 0:
        return x
    return np.concatenate([x, np.zeros((missing, *x.shape[1:]), dtype=np.float32)])
