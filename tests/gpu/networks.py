"""What holds for a small network on every kind of GPU: numbers, threads, memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from onnx_nets import mobile_net, reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.verify import TOLERANCE
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork, compile_onnx
from ofa_compile.hardware.target_spec import TargetSpec

SHAPE = (3, 24, 20)
PREFIX = "ofa_small_"
_RUNS = 1000
# A leak of one descriptor or command buffer a run would be ten times as much.
_LEAST_LEAK = 2**20
_TRIES = 3


def build_small(
    folder: Path, target: TargetSpec, cache: Cache, shape: tuple[int, int, int] = SHAPE
) -> tuple[Path, CompiledNetwork]:
    """Return a small MobileNet as ONNX, and compiled with its executable."""
    path = mobile_net((1, *shape)).save(folder / "net.onnx")
    sizes = Preprocessing(height=shape[1], width=shape[2], mean=(0, 0, 0), std=(1, 1, 1))
    meta = render_network_meta(sizes, list("abcde"))
    out = folder / "out"
    return path, compile_onnx(
        path, target, out, symbol_prefix=PREFIX, network_meta=meta, cache=cache
    )


def check_numbers(path: Path, library: NativeLibrary, rng: np.random.Generator) -> None:
    """Assert that several inputs give what ONNX's own evaluator gives."""
    x = rng.standard_normal((3, *SHAPE), dtype=np.float32)
    expected = np.concatenate([reference(path, x[i : i + 1]) for i in range(3)])
    assert np.abs(library.run(x) - expected).max() <= TOLERANCE * np.abs(expected).max()


def check_threads(library: NativeLibrary, rng: np.random.Generator) -> None:
    """Assert that several host threads get what one alone gets."""
    x = rng.standard_normal((8, 1, *SHAPE), dtype=np.float32)
    alone = [library.run(item) for item in x]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(library.run, x))
    np.testing.assert_array_equal(alone, together)


def check_memory(library: NativeLibrary) -> None:
    """Assert that a thousand runs leave the process as large as it was."""
    x = np.zeros((100, *library.input_shape[1:]), np.float32)
    library.run(x)
    grown = []
    # What else lives in this process may grow now and then, a leak does so every time.
    while len(grown) < _TRIES and min(grown, default=_LEAST_LEAK) >= _LEAST_LEAK:
        before = _resident_bytes()
        for _ in range(_RUNS // len(x)):
            library.run(x)
        grown.append(_resident_bytes() - before)
    assert min(grown) < _LEAST_LEAK, grown


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
