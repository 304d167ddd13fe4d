"""Worker process that runs candidates on a GPU: checks what they compute, and times their launches.

A driver that crashes or a device that hangs takes this process with it and nothing else.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.tuning.gpu_program import PREFIX, CandidateNetwork, times_of
from ofa_compile.tuning.output_error import difference, output_error
from ofa_compile.tuning.serve import Reply, serve


def main() -> None:
    """Serve `run` requests."""
    serve(_run)


def _run(request: dict[str, Any], reply: Reply) -> None:
    """Run all candidates together, then time those that are right in shared rounds."""
    network = CandidateNetwork(
        Path(request["library"]),
        tuple(request["outputs"]),
        tuple(request["num_launches"]),
        Path(request["data"]),
        request["is_tf32"],
    )
    with NativeLibrary(network.path, PREFIX) as library:
        x = np.zeros(library.input_shape, np.float32)
        values, expected = library.run(x)[0].view(np.uint8), network.expected()
        right = []
        for number, start in enumerate(network.outputs):
            result = values[start : start + expected.nbytes].view(expected.dtype)
            error = difference(output_error(result, expected), network.arithmetic)
            if error is None:
                right.append(number)
            else:
                reply(result=number, status="wrong", error=error)
        if right:
            milliseconds = _rounds(library, x, request["rounds"], request["budget_ms"])
            for number, result in times_of(milliseconds, network.num_launches, right).items():
                reply(result=number, **dataclasses.asdict(result))


def _rounds(
    library: NativeLibrary, x: NDArray[np.float32], least: int, budget_ms: float
) -> NDArray[np.float64]:
    """Time as many rounds as the budget allows, and no fewer than the least."""
    once = float(library.time_steps(x, repeats=1, warmup=1).sum())
    repeats = int(np.clip(budget_ms / max(once, 1e-3), least, 20 * least))
    return library.time_steps(x, repeats=repeats, warmup=0)


if __name__ == "__main__":
    main()
