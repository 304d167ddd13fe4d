from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from stub_bundle import LABELS, PREPROCESSING, StubCompiler, stub_logits

from ofa_compile.bundle.build import BundleContents, build_bundle
from ofa_compile.bundle.verify import Reference
from ofa_compile.hardware.target_spec import TargetSpec, load_target


@pytest.fixture(scope="session")
def stub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stub")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, stub_folder: Path) -> StubCompiler:
    """Replace the compiler by the stub's."""
    stub = StubCompiler(stub_folder)
    monkeypatch.setattr("ofa_compile.compiler.build.compile_onnx", stub)
    return stub


@pytest.fixture(scope="session")
def host() -> TargetSpec:
    return load_target("host")


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "network.onnx"
    path.parent.mkdir()
    path.write_bytes(b"the stub compiler does not read this")
    return path


@pytest.fixture
def contents() -> BundleContents:
    return BundleContents(preprocessing=PREPROCESSING, labels=LABELS)


@pytest.fixture
def reference(rng: np.random.Generator) -> Reference:
    inputs = rng.standard_normal((8, 3, 8, 8), dtype=np.float32)
    return Reference(inputs=inputs, logits=stub_logits(inputs))


@pytest.fixture
def make_bundle(
    compiler: StubCompiler,
    host: TargetSpec,
    onnx_path: Path,
    contents: BundleContents,
    reference: Reference,
    tmp_path: Path,
) -> Any:
    """Return a function that builds the stub's bundle; keywords override its arguments."""

    def build(**overrides: Any) -> Any:
        arguments: dict[str, Any] = {
            "onnx_path": onnx_path,
            "target": host,
            "output": tmp_path / "out" / "bundle",
            "contents": contents,
            "reference": reference,
        }
        return build_bundle(**{**arguments, **overrides})

    return build
