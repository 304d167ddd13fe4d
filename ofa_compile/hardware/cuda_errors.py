"""What errors of CUDA's driver mean and what to do, read from the C that bundles run."""

from __future__ import annotations

import functools
import importlib.resources
import re
from dataclasses import dataclass

_TEXT = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'
_LOST, _FAILED, _NOT_STARTED = "GPU_DEVICE_LOST", "GPU_FAILED", "GPU_NOT_STARTED"


@dataclass(frozen=True)
class CudaErrors:
    """The tables of `runtime/cuda_errors.h`.

    Attributes
    ----------
    texts
        Kind of error, such as "GPU_BUSY" -> what is wrong, and what to do.
    results
        Number of a CUresult -> its name behind CUDA_ERROR_, and the kind.
    oldest_driver
        The version of CUDA that a driver must know, as it counts: 11040 for 11.4.
    """

    texts: dict[str, tuple[str, str]]
    results: dict[int, tuple[str, str]]
    oldest_driver: int

    def explain_start(self, result: int) -> tuple[str, str]:
        """Say why CUDA does not start, where its driver returned `result`, and what to do."""
        name, kind = self.results.get(result, ("", _FAILED))
        # Nothing was open that could be lost.
        what, advice = self.texts[_NOT_STARTED if kind in (_LOST, _FAILED) else kind]
        said = f"{result}, CUDA_ERROR_{name}" if name else str(result)
        return f"{what} (the driver says {said})", advice


@functools.cache
def cuda_errors() -> CudaErrors:
    """Read the tables."""
    file = importlib.resources.files("ofa_compile.runtime").joinpath("cuda_errors.h")
    source = file.read_text(encoding="utf-8").replace("\\\n", "\n")
    texts = re.findall(rf"T\((GPU_\w+),\s*{_TEXT},\s*{_TEXT}\)", source)
    results = re.findall(r"R\((\d+), (\w+), (GPU_\w+)\)", source)
    oldest = re.search(r"#define OFA_CUDA_OLDEST_DRIVER (\d+)", source)
    assert oldest is not None
    return CudaErrors(
        {kind: (_joined(what), _joined(advice)) for kind, what, advice in texts},
        {int(number): (name, kind) for number, name, kind in results},
        int(oldest[1]),
    )


def _joined(literals: str) -> str:
    """Return what adjacent string literals of C mean."""
    parts = re.findall(r'"((?:[^"\\]|\\.)*)"', literals)
    return "".join(parts).replace('\\"', '"')
