"""Operators without a kernel of ours in CUDA bundles, whose kernels run on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from foreign import FOREIGN, body
from onnx_nets import reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.hardware.target_spec import TargetSpec

pytestmark = pytest.mark.usefixtures("software")
QUICK = ("gelu", "softmax over channels", "batch norm alone")


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FOREIGN],
)
def test_agrees_with_onnx(
    name: str, tmp_path: Path, cuda: TargetSpec, cache: Cache, rng: np.random.Generator
) -> None:
    path = body(FOREIGN[name]).save(tmp_path / "net.onnx")
    x = rng.standard_normal((1, 3, 9, 7), dtype=np.float32)
    compiled = compile_onnx(path, cuda, tmp_path, symbol_prefix="g_", cache=cache)
    with NativeLibrary(compiled.library, "g_") as library:
        expected = reference(path, x)
        assert np.abs(library.run(x) - expected).max() <= 1e-5 * np.abs(expected).max()
