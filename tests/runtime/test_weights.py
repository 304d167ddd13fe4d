from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from stub_build import RUNTIME, compile_c, missing_tools

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COPIED, SAME, ALIGNED, RESTORED = 1, 2, 4, 8


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if missing_tools("native"):
        pytest.skip("gcc not installed")
    folder = tmp_path_factory.mktemp("weights")
    sources = [
        str(RUNTIME / "ofa_pages.c"),
        str(RUNTIME / "ofa_weights.c"),
        str(Path(__file__).parent / "weights_stub.c"),
    ]
    compile_c(folder, folder / "libweights.so", sources, ["-shared", "-fPIC"], "native")
    loaded = ctypes.CDLL(str(folder / "libweights.so"))
    loaded.move_weights.argtypes = [ctypes.c_size_t]
    return loaded


def test_large_weights_move_to_huge_pages_and_back(library: ctypes.CDLL) -> None:
    if not SWITCH.is_file() or "[never]" in SWITCH.read_text():
        pytest.skip("no huge pages on this machine")
    bytes_of_weights = (2 << 20) + 4097
    for _ in range(2):
        assert library.move_weights(bytes_of_weights) == COPIED | SAME | ALIGNED | RESTORED


def test_small_weights_stay(library: ctypes.CDLL) -> None:
    assert library.move_weights((1 << 20) - 1) & ~ALIGNED == SAME | RESTORED
