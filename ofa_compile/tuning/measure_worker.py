"""Worker process that runs candidates: it loads libraries, checks their results and times them.

Imports NumPy and nothing else, so that it starts quickly after a crash. Buffers lie as the
memory planner places them, and weights are taken from several copies in turn: in a network they
come from the second-level cache at best, since all others are read in between.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.tuning.layout import OUTPUT, lay_out
from ofa_compile.tuning.output_error import difference, output_error
from ofa_compile.tuning.race import FINAL_ROUNDS, choose_finalists, relative_times
from ofa_compile.tuning.serve import Reply, serve

_PAGE = 4096
_GUARD = 256  # bytes behind the output that no kernel may touch
_GUARD_BYTE = 0xA5
_UNWRITTEN = 0xFF  # as floats and halves: not a number
_WARMUP_CALLS = 2
Array = NDArray[Any]


@dataclass
class _Loaded:
    """A candidate with its buffers in place."""

    kernel: Any
    arguments: Any  # a row of pointers for each copy, and behind it what to fetch
    num_pointers: int
    copies: int
    tiles: int
    stride: int
    output: Array  # bytes, with the guard behind them
    keep: list[Array]  # what the pointers point to


def main() -> None:
    """Serve `run` requests; a process that pins itself times more evenly."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    serve(_run)


def _run(request: dict[str, Any], reply: Reply) -> None:
    """Check every candidate, then time in rounds those that are right; announce each step."""
    timer = ctypes.CDLL(request["timer"]).ofa_time_kernel
    timer.restype = ctypes.c_double
    timer.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 5  # checks that none is left out
    archives = {candidate["data"]: _read(candidate["data"]) for candidate in request["candidates"]}
    loaded: dict[int, _Loaded] = {}
    for number, candidate in enumerate(request["candidates"]):
        reply(starting=number)
        arrays = archives[candidate["data"]]
        expected = arrays["expected"]
        item = _load(candidate, arrays, expected.nbytes, request["l2_bytes"])
        _time(timer, item, 1)
        error = _difference(item, expected)
        if error is None:
            loaded[number] = item
        else:
            reply(result=number, status="wrong", error=error)
    race = _Race(timer, loaded, request["turn_us"], reply)
    for number, (time_us, spread) in race.run(request["rounds"]).items():
        reply(result=number, status="ok", time_us=time_us, spread=spread)


def _read(path: str) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _load(
    candidate: dict[str, Any], arrays: dict[str, Array], out_bytes: int, l2_bytes: int
) -> _Loaded:
    """Load a candidate's library and give it buffers of its own."""
    library = ctypes.CDLL(candidate["library"])
    kernel = ctypes.cast(library[candidate["symbol"]], ctypes.c_void_p)
    names = candidate["pointers"]
    layout = lay_out(
        names,
        {name: array.nbytes for name, array in arrays.items()},
        l2_bytes=l2_bytes,
        fetch_steps=candidate["fetch_steps"],
        fetch_bytes=candidate["fetch_bytes"],
    )
    output = np.full(out_bytes + _GUARD, _UNWRITTEN, np.uint8)
    output[out_bytes:] = _GUARD_BYTE
    keep = [
        _place(output if place.array == OUTPUT else arrays[place.array], place.phase)
        for place in layout.places
    ]
    pointers = [keep[index].ctypes.data for row in layout.rows for index in row]
    return _Loaded(
        kernel,
        (ctypes.c_void_p * len(pointers))(*pointers),
        len(names) + 1,
        len(layout.rows),
        candidate["num_tiles"],
        layout.stride,
        next(buffer for buffer, p in zip(keep, layout.places, strict=True) if p.array == OUTPUT),
        keep,
    )


def _place(values: Array, phase: int) -> Array:
    """Copy values to where the memory planner would put them: at `phase` within a page."""
    memory = np.empty(values.nbytes + 2 * _PAGE, np.uint8)
    start = -memory.ctypes.data % _PAGE + phase
    place = memory[start : start + values.nbytes]
    place[:] = values.view(np.uint8)
    return place


def _difference(item: _Loaded, expected: Array) -> str | None:
    """Say how the output differs from what it should be, or None if it does not."""
    result, guard = item.output[: expected.nbytes], item.output[expected.nbytes :]
    if not (guard == _GUARD_BYTE).all():
        return "wrote behind the end of its output"
    # Every output of floats starts as no number, which is an error as well.
    return difference(output_error(result.view(expected.dtype), expected), expected.dtype.name)


class _Race:
    """Times candidates in rounds: a busy moment hits all of them, and cancels in the ratios.

    Every round gives each candidate one turn. The best of them and the first then run more rounds
    among themselves, so that nobody wins by luck (see `race`).
    """

    def __init__(
        self, timer: Any, loaded: dict[int, _Loaded], turn_us: float, reply: Reply
    ) -> None:
        self._timer, self._loaded, self._reply = timer, loaded, reply
        self._calls = {number: self._turn_length(number, turn_us) for number in loaded}

    def run(self, rounds: int) -> dict[int, tuple[float, float]]:
        """Return time and spread of every candidate, as in `TuningRecord`."""
        if not self._loaded:
            return {}
        found = relative_times(self._rounds(list(self._loaded), rounds))
        finalists = choose_finalists(found)
        if len(finalists) > 1:
            found.update(relative_times(self._rounds(finalists, FINAL_ROUNDS * rounds)))
        return found

    def _turn_length(self, number: int, turn_us: float) -> int:
        """Warm up, and return how many calls make a turn."""
        item = self._loaded[number]
        self._reply(starting=number)
        _time(self._timer, item, _WARMUP_CALLS)
        once = _time(self._timer, item, max(_WARMUP_CALLS, item.copies // 4))
        return max(1, round(turn_us / max(once, 1e-3)))

    def _rounds(self, numbers: list[int], rounds: int) -> dict[int, list[float]]:
        times: dict[int, list[float]] = {number: [] for number in numbers}
        for turn in range(rounds):
            for number in numbers if turn % 2 == 0 else reversed(numbers):
                self._reply(starting=number)
                seconds = _time(self._timer, self._loaded[number], self._calls[number])
                times[number].append(seconds)
        return times


def _time(timer: Any, item: _Loaded, calls: int) -> float:
    """Return the mean time of a call in microseconds."""
    sizes = (item.num_pointers, item.copies, item.tiles, item.stride, calls)
    seconds = timer(item.kernel, item.arguments, *sizes)
    if seconds < 0:
        msg = f"cannot call a kernel of {item.num_pointers} pointers"
        raise RuntimeError(msg)
    return 1e6 * float(seconds) / calls


if __name__ == "__main__":
    main()
