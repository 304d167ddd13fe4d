from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # for onnx_nets
sys.path.insert(0, str(Path(__file__).parent))  # for int8_nets

from int8_nets import block_net

from ofa_compile.compiler.graph import Graph
from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.pipeline import INT8_PASSES, run_passes


@pytest.fixture
def graph(tmp_path: Path) -> Graph:
    result = import_onnx(block_net().save(tmp_path / "net.onnx"))
    run_passes(result, INT8_PASSES)
    return result


@pytest.fixture
def images(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal((24, 3, 12, 12), dtype=np.float32)
