"""The tables of CUDA's errors, which C and Python share, against NVIDIA's own header."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ofa_compile.hardware.cuda_errors import cuda_errors


def header(repository: Path, name: str) -> str:
    return (repository / "ofa_compile" / "runtime" / name).read_text(encoding="utf-8")


def nvidias_results() -> dict[str, int]:
    """Return every CUresult by the name behind CUDA_ERROR_."""
    file = Path("/usr/local/cuda/include/cuda.h")
    if not file.is_file():
        pytest.skip("no CUDA toolkit")
    found = re.findall(r"CUDA_ERROR_(\w+)\s*= (\d+)", file.read_text(encoding="utf-8"))
    return {name: int(number) for name, number in found}


def test_all_rows_are_read(repository: Path) -> None:
    known, text = cuda_errors(), header(repository, "cuda_errors.h")
    assert len(known.texts) == len(re.findall(r"^    T\(", text, re.MULTILINE)) > 15
    assert len(known.results) == len(re.findall(r"^    R\(", text, re.MULTILINE)) > 30
    assert {kind for _, kind in known.results.values()} <= known.texts.keys()
    for what, advice in known.texts.values():
        assert '"' not in what
        assert "  " not in what + advice
        assert ";" not in what  # which begins the advice
        assert len(what) + len(advice) < 550  # what the launcher says besides must fit in, too
    assert 'multiprocessing\'s "spawn"' in known.texts["GPU_FORKED"][1]


def test_every_code_has_its_text(repository: Path) -> None:
    """But for what only Vulkan says."""
    codes = set(re.findall(r"(GPU_\w+) = \d+", header(repository, "gpu_error.h")))
    assert codes - cuda_errors().texts.keys() == {"GPU_NO_HALVES"}


def test_results_are_nvidias() -> None:
    theirs = nvidias_results()
    assert {name: theirs[name] for name, _ in cuda_errors().results.values()} == {
        name: number for number, (name, _) in cuda_errors().results.items()
    }
