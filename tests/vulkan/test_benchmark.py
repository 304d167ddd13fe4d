"""The other runtimes of the GPU benchmark, as far as they go without one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_gpu
from gpu_prebuilt import coarse_subnet, images, quick_subnets
from gpu_runtimes import available, load

pytestmark = pytest.mark.vulkan


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return a folder for a small network, and what a prebuilt one tells of itself."""
    import torch

    place = tmp_path_factory.mktemp("benchmark") / "batch-1"
    place.mkdir()
    (architecture,) = quick_subnets().values()
    subnet = coarse_subnet(architecture, place.parent / "weights.npz")
    with torch.inference_mode():
        logits = subnet(torch.from_numpy(images(architecture, 1)))
    facts = {"architecture": architecture.to_dict(), "batch": 1, "kind": "vulkan"}
    return place, {**facts, "logits": logits.tolist()}


@pytest.mark.slow
@pytest.mark.usefixtures("tvm_target")
def test_stock_tvm_computes_the_same(network: tuple[Path, dict[str, Any]]) -> None:
    assert "tvm" in available("vulkan")
    runtime = load("tvm", *network)
    assert bench_gpu.check(network[1], runtime.logits()) < 1e-5
    assert runtime.end_to_end_ms(1) > 0
    runtime.close()


@pytest.mark.parametrize("kind", ["onnxruntime", "tensorrt-tf32"])
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_fall_back_to_the_processor_is_refused(
    network: tuple[Path, dict[str, Any]], kind: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is nothing to fall back from")
    with pytest.raises(RuntimeError, match="has fallen back to CPUExecutionProvider"):
        load(kind, *network)
