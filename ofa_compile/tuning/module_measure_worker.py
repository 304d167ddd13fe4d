"""Worker process that runs MetaSchedule's candidates: checks what they compute, and times them.

Run as a module by `metaschedule.IsolatedRunner`. A candidate that crashes, hangs or writes where it
must not takes this process with it and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.tuning.output_error import TOLERANCES, describe_error, output_error
from ofa_compile.tuning.race import relative_times
from ofa_compile.tuning.serve import Reply, keep_torch_out, serve_all

Arrays = list[NDArray[Any]]
Call = Callable[[int], float]
"""Calls a function so many times and returns the seconds of one."""

_SEED = 20_191_129


def main() -> None:
    """Serve `start` (which does nothing), `prepare` and `run` requests."""
    keep_torch_out()
    from ofa_compile.compiler import tvm_api  # noqa: F401 - before the first candidate's time-out

    serve_all({"start": lambda request, reply: None, "prepare": _prepare, "run": _run})


def _prepare(request: dict[str, Any], reply: Reply) -> None:
    """Write values of arguments, and what each reference makes of them."""
    from ofa_compile.compiler.tvm_api import tvm

    rng = np.random.default_rng(_SEED)
    values = [_draw(rng, dtype, shape) for dtype, shape in request["arguments"]]
    arrays = {f"argument_{n}": value for n, value in enumerate(values)}
    if request["references"]:
        library = tvm.runtime.load_module(request["library"])
    for number, symbol in enumerate(request["references"]):
        memory = [tvm.runtime.tensor(value) for value in values]
        library[symbol](*memory)
        arrays |= {f"expected_{number}_{n}": t.numpy() for n, t in enumerate(memory)}
    np.savez(request["data"], **arrays)  # type: ignore[arg-type]


def _draw(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    try:
        kind: str = np.dtype(dtype).kind
    except TypeError:
        kind = "unknown"
    if kind == "f":
        # Positive and at most one: inside the domain of logarithms, roots and arc functions.
        return rng.uniform(0.1, 1.0, shape).astype(dtype)
    if kind in "iub":
        # Small, since they may be indices.
        return rng.integers(0, 2, shape).astype(dtype)
    msg = f"an argument of {dtype} cannot be filled with values"
    raise TypeError(msg)


def _run(request: dict[str, Any], reply: Reply) -> None:
    """Check every candidate, then time in rounds those that are right; announce each step."""
    from ofa_compile.compiler.tvm_api import tvm

    with np.load(request["data"], allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    places = range(sum(name.startswith("argument_") for name in arrays))
    values = [arrays[f"argument_{n}"] for n in places]
    expected = [
        [arrays[f"expected_{r}_{n}"] for n in places] for r in range(request["num_references"])
    ]
    device = tvm.runtime.device(request["device"], 0)
    # Where data lies matters; it lies in the same place for all.
    arguments = [tvm.runtime.tensor(value, device) for value in values]
    loaded = _Libraries()
    right: dict[int, Call] = {}
    for number, artifact in enumerate(request["artifacts"]):
        reply(starting=number)
        module, symbol = loaded.find(Path(artifact))
        for tensor, value in zip(arguments, values, strict=True):
            tensor.copyfrom(value)
        module[symbol](*arguments)
        device.sync()
        error = _error([tensor.numpy() for tensor in arguments], expected)
        if error is not None:
            reply(result=number, error=f"wrong result: {error}")
            continue
        right[number] = _timed_call(module, symbol, device, arguments, request["flush_cache"])
    for number, (seconds, _) in _time(right, request, reply).items():
        reply(result=number, seconds=seconds)


class _Libraries:
    """Libraries by file: candidates that were linked together are loaded once."""

    def __init__(self) -> None:
        self._modules: dict[tuple[int, int], Any] = {}

    def find(self, artifact: Path) -> tuple[Any, str]:
        """Return a candidate's module, and its function's name."""
        from ofa_compile.compiler.tvm_api import tvm

        status = artifact.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self._modules:
            self._modules[key] = tvm.runtime.load_module(str(artifact))
        module = self._modules[key]
        # WarmBuilder names a function of many after its file; in other files there is only one.
        is_named = module.implements_function(artifact.stem)
        return module, artifact.stem if is_named else module.entry_name


def _error(results: Arrays, expected: Sequence[Arrays]) -> str | None:
    """Say how results differ from what is right; None if they do not, or nothing is known.

    With several references it has to be one of them. All arguments are compared, as what is only
    read must stay as it is.
    """
    found = [_difference(results, reference) for reference in expected]
    return None if None in found or not found else found[0]


def _difference(results: Arrays, expected: Arrays) -> str | None:
    for number, (result, right) in enumerate(zip(results, expected, strict=True)):
        what = f"argument {number}"
        if right.dtype.kind != "f":
            off = np.count_nonzero(result != right)
            if off:
                return f"{what} differs in {off} of {right.size} places"
            continue
        is_number = np.isfinite(right)
        if not np.array_equal(result[~is_number], right[~is_number], equal_nan=True):
            return f"{what} has other places that are no finite numbers"
        error = output_error(np.where(is_number, result, 0), np.where(is_number, right, 0))
        allowed = TOLERANCES.get(right.dtype.name, TOLERANCES["float32"])
        if not error <= allowed:  # or it is no number
            return f"{what} {describe_error(error, allowed)}"
    return None


def _timed_call(
    module: Any, symbol: str, device: Any, arguments: list[Any], flush_cache: bool
) -> Call:
    def timed(count: int) -> float:
        flush = "cache_flush_cpu_non_first_arg" if flush_cache else ""
        evaluate = module.time_evaluator(symbol, device, number=count, repeat=1, f_preproc=flush)
        return float(evaluate(*arguments).results[0])

    return timed


def _time(
    calls: dict[int, Call], request: dict[str, Any], reply: Reply
) -> dict[int, tuple[float, float]]:
    """Return seconds and spread; a busy moment hits all candidates, and cancels in the ratios."""

    def turn(number: int, count: int) -> float:
        reply(starting=number)
        return calls[number](count)

    counts = {
        number: max(request["number"], round(request["turn_s"] / max(turn(number, 1), 1e-9)))
        for number in calls
    }
    times: dict[int, list[float]] = {number: [] for number in calls}
    for _ in range(request["rounds"]):
        for number, count in counts.items():
            times[number].append(turn(number, count))
    return relative_times(times) if times else {}


if __name__ == "__main__":
    main()
