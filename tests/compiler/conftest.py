from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for onnx_nets

from onnx_nets import Net, reference

from ofa_compile.cache import Cache
from ofa_compile.compiler.build import CompiledNetwork, compile_onnx
from ofa_compile.hardware.target_spec import TargetSpec, load_target

TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def host() -> TargetSpec:
    return load_target("host")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for all tests, so that the run time is compiled once."""
    return Cache(tmp_path_factory.mktemp("compiler-cache"))


@pytest.fixture
def agree(
    tmp_path: Path, host: TargetSpec, cache: Cache, rng: np.random.Generator
) -> Callable[..., CompiledNetwork]:
    """Compile a network for this machine and compare with onnx's reference evaluator."""
    from ofa_compile.bundle.native import NativeLibrary

    def check(net: Net, **changes: Any) -> CompiledNetwork:
        path = net.save(tmp_path / "net.onnx", **changes)
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        compiled = compile_onnx(path, host, output, symbol_prefix="ofa_test_", cache=cache)
        library = NativeLibrary(compiled.library, "ofa_test_")
        x = rng.standard_normal(net.shape, dtype=np.float32)
        expected = reference(path, x)
        for threads in (1, 2):
            library.set_threads(threads)
            actual = library.run(x)
            assert actual.shape == expected.shape
            assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()
        return compiled

    return check
