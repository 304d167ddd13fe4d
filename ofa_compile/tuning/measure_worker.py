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

from ofa_compile.compiler.plan import buffer_phase
from ofa_compile.tuning.serve import Reply, serve

TOLERANCE = 2e-5
"""Largest error allowed, relative to the largest expected value (float32 sums of many products)."""

_PAGE = 4096
_GUARD = 64  # values behind the output that no kernel may touch
_GUARD_VALUE = np.float32(-123.5)
_MAX_COPIES = 64
_WARMUP_CALLS = 2
# Besides the first candidate; they run this many times the rounds again.
_FINALISTS = 2
_FINAL_ROUNDS = 2

Array = NDArray[np.float32]


@dataclass
class _Loaded:
    """A candidate with its buffers in place."""

    kernel: Any
    arguments: Any  # a row of pointers for each copy, and behind it what to fetch
    num_pointers: int
    copies: int
    tiles: int
    stride: int
    output: Array
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
        item = _load(candidate, arrays, expected.size, request["l2_bytes"])
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
    candidate: dict[str, Any], arrays: dict[str, Array], out_size: int, l2_bytes: int
) -> _Loaded:
    """Load a candidate's library and give it buffers of its own."""
    library = ctypes.CDLL(candidate["library"])
    kernel = ctypes.cast(library[candidate["symbol"]], ctypes.c_void_p)
    names = candidate["pointers"]
    constant_bytes = sum(arrays[n].nbytes for n in names if n.startswith("packed"))
    copies = max(1, min(_MAX_COPIES, -(-2 * l2_bytes // max(1, constant_bytes))))
    copies = copies if constant_bytes else 1
    output = _place(np.full(out_size + _GUARD, np.nan, np.float32), 0)
    output[out_size:] = _GUARD_VALUE
    keep, rows = [output], list[list[int]]()
    shared: dict[str, Array] = {}
    for _ in range(copies):
        row = []
        for position, name in enumerate(names, start=1):
            if name.startswith("packed"):
                place = _place(arrays[name], len(keep))
                keep.append(place)
            else:
                place = shared.setdefault(name, _place(arrays[name], position))
            row.append(place.ctypes.data)
        rows.append([*row, output.ctypes.data])
    # What a call fetches on the way is what the next one reads.
    first = next((place for place, name in enumerate(names) if name.startswith("packed")), 0)
    following = rows[1:] + rows[:1]
    pairs = zip(rows, following, strict=True)
    pointers = [pointer for row, after in pairs for pointer in (*row, after[first])]
    table = (ctypes.c_void_p * len(pointers))(*pointers)
    return _Loaded(
        kernel,
        table,
        len(names) + 1,
        copies,
        candidate["num_tiles"],
        _fetch_stride(min(constant_bytes, candidate["fetch_bytes"]), candidate["fetch_steps"]),
        output,
        [*keep, *shared.values()],
    )


def _fetch_stride(num_bytes: int, steps: int) -> int:
    """Return how many values to fetch at each inner step, no more than a network would."""
    return -(-num_bytes // (4 * steps)) if steps else 0


def _place(values: Array, index: int) -> Array:
    """Copy values to where the memory planner would put the buffer of that index in a page."""
    memory = np.empty(values.size + 2 * _PAGE // 4, np.float32)
    start = (-memory.ctypes.data % _PAGE + buffer_phase(index)) // 4
    place = memory[start : start + values.size]
    place[:] = values
    return place


def _difference(item: _Loaded, expected: Array) -> str | None:
    """Say how the output differs from what it should be, or None if it does not."""
    result, guard = item.output[: expected.size], item.output[expected.size :]
    if not (guard == _GUARD_VALUE).all():
        return "wrote behind the end of its output"
    error = float(np.abs(result - expected).max()) / max(1.0, float(np.abs(expected).max()))
    if error <= TOLERANCE:  # false for NaN: every output starts as one
        return None
    return f"differs by {error:.1e} of the largest value; {TOLERANCE:.0e} is allowed"


class _Race:
    """Times candidates in rounds: a busy moment hits all of them, and cancels in the ratios.

    Every round gives each candidate one turn; what counts is the median over rounds of its time
    over that of the first candidate. The best of them and the first then run more rounds among
    themselves, so that nobody wins by luck.
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
        first = min(self._loaded)
        times = self._rounds(list(self._loaded), rounds)
        found = _relative(times, first)
        order = sorted(found, key=lambda number: found[number][0])
        finalists = sorted({first, *order[:_FINALISTS]})
        if len(finalists) > 1:
            found.update(_relative(self._rounds(finalists, _FINAL_ROUNDS * rounds), first))
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


def _relative(times: dict[int, list[float]], first: int) -> dict[int, tuple[float, float]]:
    """Turn ratios to the first candidate into microseconds, with half their 16-84 % range."""
    base = np.array(times[first])
    scale = float(np.quantile(base, 0.25))
    found = {}
    for number, values in times.items():
        ratios = np.array(values) / base if number != first else base / np.median(base)
        low, high = np.quantile(ratios, [0.16, 0.84])
        median = float(np.median(ratios))
        found[number] = (scale * median, float(0.5 * (high - low) / median))
    return found


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
