"""Worker process that runs candidates on a GPU: checks what they compute, and times their launches.

A driver that crashes or a device that hangs takes this process with it and nothing else.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.tuning.gpu_program import PREFIX
from ofa_compile.tuning.output_error import TOLERANCES, describe_error, output_error
from ofa_compile.tuning.race import relative_times
from ofa_compile.tuning.serve import Reply, serve

# A clock of the device may tick more slowly than a kernel runs.
_LEAST_US = 1e-3


def main() -> None:
    """Serve `run` requests."""
    serve(_run)


def _run(request: dict[str, Any], reply: Reply) -> None:
    """Run all candidates together, then time those that are right in shared rounds."""
    with NativeLibrary(Path(request["library"]), PREFIX) as library:
        x = np.zeros(library.input_shape, np.float32)
        values = library.run(x)[0]
        right = []
        for number, candidate in enumerate(request["candidates"]):
            error = _difference(values, candidate)
            if error is None:
                right.append(number)
            else:
                reply(result=number, status="wrong", error=error)
        if right:
            milliseconds = _rounds(library, x, request["rounds"], request["budget_ms"])
            turns = _turns(milliseconds, [c["num_launches"] for c in request["candidates"]])
            found = relative_times({number: turns[number] for number in right})
            for number, (time_us, spread) in found.items():
                reply(result=number, status="ok", time_us=time_us, spread=spread)


def _difference(values: NDArray[np.float32], candidate: dict[str, Any]) -> str | None:
    """Say how an output differs from what it should be, or None if it does not."""
    with np.load(candidate["data"], allow_pickle=False) as stored:
        expected = stored["expected"]
    start = candidate["output"]
    result = values.view(np.uint8)[start : start + expected.nbytes].view(expected.dtype)
    error, allowed = output_error(result, expected), TOLERANCES[expected.dtype.name]
    return None if error <= allowed else describe_error(error, allowed)  # the latter for NaN


def _rounds(
    library: NativeLibrary, x: NDArray[np.float32], least: int, budget_ms: float
) -> NDArray[np.float64]:
    """Time as many rounds as the budget allows, and no fewer than the least."""
    once = float(library.time_steps(x, repeats=1, warmup=1).sum())
    repeats = int(np.clip(budget_ms / max(once, 1e-3), least, 20 * least))
    return library.time_steps(x, repeats=repeats, warmup=0)


def _turns(milliseconds: NDArray[np.float64], num_launches: list[int]) -> list[list[float]]:
    """Return the microseconds of every candidate in every round: the sum over its launches."""
    ends = np.cumsum([0, *num_launches])
    return [
        np.maximum(1e3 * milliseconds[:, first:last].sum(axis=1), _LEAST_US).tolist()
        for first, last in pairwise(ends)
    ]


if __name__ == "__main__":
    main()
