"""The interface behind which inference runtimes are compared, and ofa-compile's side of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[np.float32]


class Runtime(ABC):
    """A network loaded by one runtime.

    Subclasses load it in `__init__`, and `call` runs it once on the input given there.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    source: ClassVar[str] = "subnet.onnx"

    @classmethod
    def is_available(cls, folder: Path) -> bool:
        """Tell whether the runtime is installed and what it loads was built into `folder`."""
        installed = all(find_spec(module) is not None for module in cls.modules)
        return installed and (folder / cls.source).is_file()

    @abstractmethod
    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        """Load what `folder` holds, to be run on `x` of shape (1, 3, H, W)."""

    @abstractmethod
    def call(self) -> None:
        """Run once; the result stays inside."""

    @abstractmethod
    def logits(self) -> Tensor:
        """Return the result of the last run, of shape (1, classes)."""

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Return the milliseconds of each run; one Python call lies within each."""
        times = np.empty(repeats)
        for number in range(repeats):
            start = time.perf_counter_ns()
            self.call()
            times[number] = (time.perf_counter_ns() - start) / 1e6
        return times


class Ours(Runtime):
    """The library that ofa-compile built, through ctypes."""

    name = "ofa-compile"
    modules = ("ofa_compile",)

    def __init__(self, folder: Path, x: Tensor, threads: int = 1) -> None:
        from ofa_compile.bundle.native import NativeLibrary

        self._library = NativeLibrary(folder / "libsubnet.so", "ofa_bench_")
        self._x = x
        self._threads = threads

    def call(self) -> None:
        """Run once."""
        self._library.time(self._x, repeats=1, warmup=0, threads=self._threads)

    def logits(self) -> Tensor:
        """Return the logits."""
        return self._library.run(self._x)

    def time(self, repeats: int) -> NDArray[np.float64]:
        """Time inside the library."""
        return self._library.time(self._x, repeats=repeats, warmup=0, threads=self._threads)
