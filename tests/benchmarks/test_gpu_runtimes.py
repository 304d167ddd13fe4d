"""PyTorch's and ONNX Runtime's ways through the GPU benchmark, on the processor.

They are run on a GPU in earnest only where one is rented, and a slip would be dear there. What
stands in for CUDA computes on the processor, records no graph and takes no time.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_onnxruntime
import gpu_torch
from gpu_prebuilt import coarse_subnet, images, onnx_file, quick_subnets, relative_error
from gpu_runtimes import GpuRuntime, precision_of, queue_length, runtime_class, runtimes_for
from gpu_torch import TorchOnGpu

from ofa_compile.export.onnx_export import export_onnx

(ARCHITECTURE,) = quick_subnets().values()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    subnet = coarse_subnet(ARCHITECTURE, folder / "weights.npz")
    export_onnx(subnet, onnx_file(folder, 2), resolution=ARCHITECTURE.resolution, batch=2)
    return folder / "fp32-batch-2"


@pytest.fixture(scope="module")
def facts(place: Path) -> dict[str, Any]:
    with torch.inference_mode():
        subnet = coarse_subnet(ARCHITECTURE, place.parent / "weights.npz")
        logits = subnet(torch.from_numpy(images(ARCHITECTURE, 2)))
    architecture = ARCHITECTURE.to_dict()
    return {"architecture": architecture, "batch": 2, "kind": "cuda", "logits": logits.tolist()}


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Let PyTorch's CUDA be the processor; return how it was asked to compile."""
    compiled: list[dict[str, Any]] = []

    def compile_(module: Any, **options: Any) -> Any:
        compiled.append(options)
        return module

    @contextlib.contextmanager
    def nothing(_: Any) -> Iterator[None]:
        yield

    def move(to: Any) -> Any:
        def moved(self: Any, device: Any, *arguments: Any, **options: Any) -> Any:
            return to(self, "cpu" if device == "cuda" else device, *arguments, **options)

        return moved

    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None)
    event.elapsed_time = lambda _: 10.0
    fakes = {
        "Event": lambda *, enable_timing: event,
        "Stream": lambda: None,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "stream": nothing,
        "graph": nothing,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for kind in (torch.nn.Module, torch.Tensor):
        monkeypatch.setattr(kind, "to", move(kind.to))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(gpu_torch, "queue_length", lambda _: 2)
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    benchmark = torch.backends.cudnn.benchmark
    yield compiled
    for setting, value in zip(settings, before, strict=True):
        setting.allow_tf32 = value
    torch.backends.cudnn.benchmark = benchmark


def check_calls(runtime: GpuRuntime, facts: dict[str, Any], tolerance: float) -> None:
    assert relative_error(facts, runtime.logits()) < tolerance
    for times in (runtime.device_ms(3), runtime.end_to_end_ms(3)):
        assert times.shape == (3,)
        assert (times > 0).all()
    assert relative_error(facts, runtime.logits()) < tolerance
    runtime.close()


@pytest.mark.parametrize("name", ["torch-graph", "torch-max-autotune-tf32", "torch-graph-fp16"])
def test_pytorch(
    place: Path, facts: dict[str, Any], processor: list[dict[str, Any]], name: str
) -> None:
    assert runtime_class(name) is TorchOnGpu
    assert name in runtimes_for("cuda", precision_of(name, {}))
    is_half = name.endswith("-fp16")
    runtime = TorchOnGpu(place, facts, name)
    assert torch.backends.cuda.matmul.allow_tf32 == name.endswith("-tf32")
    assert torch.backends.cudnn.allow_tf32 == name.endswith("-tf32")
    check_calls(runtime, facts, 0.01 if is_half else 1e-5)
    assert runtime.runs(3) == 6  # two in each queue
    wanted = [{"mode": "max-autotune", "dynamic": False}] if "max-autotune" in name else []
    assert processor == wanted


def test_pytorch_without_a_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"PyTorch .* sees no CUDA device"):
        TorchOnGpu.describe()


def test_onnx_runtime(place: Path, facts: dict[str, Any]) -> None:
    pytest.importorskip("onnxruntime")

    class OnProcessor(gpu_onnxruntime.CudaOnnxRuntime):
        provider = "CPUExecutionProvider"
        device = "cpu"

        @classmethod
        def settings(cls, precision: str) -> dict[str, str]:
            return {}

    assert "ONNX Runtime" in OnProcessor.describe()
    check_calls(OnProcessor(place, facts, "onnxruntime"), facts, 1e-5)


def test_providers_are_told_how_to_multiply(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu_onnxruntime.tempfile, "gettempdir", lambda: str(tmp_path))
    cuda, tensorrt = gpu_onnxruntime.CudaOnnxRuntime, gpu_onnxruntime.TensorRt
    assert cuda.settings("fp32")["use_tf32"] == cuda.settings("fp16")["use_tf32"] == "0"
    assert cuda.settings("tf32")["use_tf32"] == "1"
    assert tensorrt.settings("fp32")["trt_fp16_enable"] == "0"
    assert tensorrt.settings("fp16")["trt_fp16_enable"] == "1"
    folders = {tensorrt.settings(name)["trt_engine_cache_path"] for name in ("fp32", "tf32")}
    assert len(folders) == 2
    assert all(Path(folder).is_dir() for folder in folders)


def test_slow_runs_are_not_queued() -> None:
    assert queue_length(lambda: None) == 20
    assert queue_length(lambda: np.ones(2**24).sum()) < 20
