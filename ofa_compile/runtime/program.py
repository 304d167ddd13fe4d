"""How a bundle's executable (`main.c`) is asked for logits and times, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ofa_compile.errors import DeviceError

INPUT, LOGITS, TIMES = "input.f32", "logits.f32", "times.f64"
# Exit code of the executable when a logit is not finite; the logits are written all the same.
_EXIT_NOT_FINITE = 3
_LONGEST_MESSAGE = 2000


class Program(ABC):
    """An executable somewhere, which reads and writes files in a folder there.

    Attributes
    ----------
    classes
        Logits per input.
    input_limit_s
        How long one input may take: nothing real takes as long.
    """

    classes: int
    input_limit_s: float

    @abstractmethod
    def exchange(
        self, arguments: list[str], files: dict[str, bytes], result: str, limit_s: float
    ) -> bytes:
        """Run it with `files` beside it; return the file that it wrote.

        Raises
        ------
        DeviceError
            If the program fails, crashes or hangs; the message holds what it printed.
        """

    @abstractmethod
    def refuse(self, result: str, num_bytes: int, wanted: str) -> NoReturn:
        """Raise what it means that a result has another size than `wanted`, in words."""

    def run(self, x: NDArray[np.float32], *, threads: int = 1) -> NDArray[np.float32]:
        """Compute the logits of inputs of shape (N, 3, H, W) in one process.

        Returns
        -------
        float32 array of shape (N, classes).

        Raises
        ------
        DeviceError
            As for `exchange`.
        """
        if len(x) == 0:
            return np.empty((0, self.classes), dtype=np.float32)
        tensors = np.ascontiguousarray(x, dtype="<f4").tobytes()
        arguments = ["--raw", INPUT, "--logits", LOGITS, "--threads", str(threads)]
        limit_s = self.input_limit_s * len(x)
        data = self.exchange(arguments, {INPUT: tensors}, LOGITS, limit_s)
        values = self._values(LOGITS, data, "<f4", (len(x), self.classes))
        return values.astype(np.float32)

    def time(
        self, *, repeats: int, warmup: int = 3, threads: int = 1, limit_s: float | None = None
    ) -> NDArray[np.float64]:
        """Time runs on an input of noise, inside one process.

        Parameters
        ----------
        repeats, warmup, threads
            Timed runs, untimed ones before them, and the threads of each.
        limit_s
            When to give up; a generous guess if None.

        Returns
        -------
        Milliseconds of each run, of shape (repeats,).

        Raises
        ------
        DeviceError
            As for `exchange`.
        """
        arguments = ["--benchmark", str(repeats), "--warmup", str(warmup), "--times", TIMES]
        arguments += ["--threads", str(threads)]
        data = self.exchange(arguments, {}, TIMES, limit_s or self._time_limit_s(repeats + warmup))
        return self._values(TIMES, data, "<f8", (repeats,)).astype(np.float64)

    def _time_limit_s(self, runs: int) -> float:
        return self.input_limit_s + 2.0 * runs

    def _values(self, result: str, data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        if len(data) != np.prod(shape) * np.dtype(dtype).itemsize:
            self.refuse(result, len(data), " x ".join(map(str, shape)))
        return np.frombuffer(data, dtype).reshape(shape)


def check_end(who: str, status: int | None, printed: str, limit_s: float) -> None:
    """Raise unless a program came to a good end; `status` None is one that did not end in time.

    Raises
    ------
    DeviceError
        Which names `who`, how it ended and what it printed.
    """
    if status is None:
        msg = f"{who} did not finish within {limit_s:.0f} s"
        raise DeviceError(msg)
    if status not in (0, _EXIT_NOT_FINITE):
        how = f"signal {-status}" if status < 0 else f"{status}"
        said = printed.strip()[-_LONGEST_MESSAGE:] or "it printed nothing"
        msg = f"{who} failed ({how}): {said}"
        raise DeviceError(msg)
