"""What the GPU benchmark carries to the machine with the GPU, as far as it is made without TVM."""

from __future__ import annotations

import argparse
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_gpu
import gpu_peer_files
from gpu_peer_files import ALL, NotMadeError, add_halves, add_ncnn, find_pnnx, why_absent
from gpu_prebuilt import coarse_subnet, images, onnx_file, packed_file, quick_subnets

from ofa_compile.export.onnx_export import export_onnx

(ARCHITECTURE,) = quick_subnets().values()


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """Return a subnet's folder with the files that all others are made of."""
    return Path(shutil.copytree(built, tmp_path / "small"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    subnet = coarse_subnet(ARCHITECTURE, folder / "weights.npz")
    export_onnx(subnet, onnx_file(folder, 2), resolution=ARCHITECTURE.resolution, batch=2)
    return folder


def expected(place: Path, x: Any) -> np.ndarray:
    with torch.inference_mode():
        return coarse_subnet(ARCHITECTURE, place / "weights.npz")(torch.from_numpy(x)).numpy()


def test_another_pytorch_gets_the_same_network(place: Path) -> None:
    x = images(ARCHITECTURE, 2)
    logits = []
    for seed in (1, 2):  # of whatever an initialisation draws
        torch.manual_seed(seed)
        logits.append(expected(place, x))
    assert np.array_equal(*logits)
    with np.load(place / "weights.npz", allow_pickle=False) as stored:
        assert {stored[name].dtype.kind for name in stored.files} <= set("fi")


def test_weights_have_seven_values_after_folding(place: Path) -> None:
    model = onnx.load(onnx_file(place, 2))
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    matrices = [array for array in arrays if array.ndim > 1]
    assert len(matrices) > 20
    assert max(len(np.unique(array)) for array in matrices) == 7


def test_no_map_fades(place: Path) -> None:
    x = images(ARCHITECTURE, 2)
    logits = expected(place, x)
    assert 0.01 < np.abs(logits).max() < 100
    # A network that mixed images up would be seen.
    assert np.abs(logits[0] - logits[1]).max() > 0.1 * np.abs(logits).max()
    assert np.abs(x[1]).max() < 0.6 * np.abs(x[0]).max()


def test_halves_compute_nearly_the_same(place: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    add_halves(place, 2)
    file = onnx_file(place, 2, "fp16")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = images(ARCHITECTURE, 2)
    (logits,) = session.run(None, {session.get_inputs()[0].name: x})
    assert logits.dtype == np.float32
    error = np.abs(logits - expected(place, x)).max() / np.abs(logits).max()
    assert 1e-5 < error < 0.01
    assert file.stat().st_size < 0.6 * onnx_file(place, 2).stat().st_size


@pytest.fixture
def pnnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a program that stands in for pnnx, empty as yet."""
    program = tmp_path / "bin" / "pnnx"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr(gpu_peer_files.sysconfig, "get_path", lambda _: str(tmp_path / "none"))
    return program


def test_ncnn_gets_what_pnnx_writes(place: Path, pnnx: Path) -> None:
    pnnx.write_text("#!/bin/sh\necho $2 > subnet.ncnn.param; cp $1 subnet.ncnn.bin; touch rest\n")
    add_ncnn(place, ARCHITECTURE)
    size = ARCHITECTURE.resolution
    assert (place / "subnet.ncnn.param").read_text() == f"inputshape=[1,3,{size},{size}]\n"
    single = onnx.load(place / "subnet.ncnn.bin").graph.input[0].type.tensor_type.shape
    assert single.dim[0].dim_value == 1
    assert not (place / "rest").exists()


def test_ncnn_without_pnnx_is_left_out_with_the_reason(place: Path, pnnx: Path) -> None:
    pnnx.write_text("#!/bin/sh\necho no such operator >&2; exit 1\n")
    with pytest.raises(NotMadeError, match="pnnx fails: no such operator"):
        add_ncnn(place, ARCHITECTURE)
    pnnx.unlink()
    with pytest.raises(NotMadeError, match="pip install pnnx"):
        find_pnnx()


def test_a_run_is_told_why_files_are_absent() -> None:
    absent = {"tvm": {"small batch 2": "a bug"}, "ncnn-vulkan": {ALL: "no pnnx"}}
    facts = {"subnet": "small", "batch": 2}
    assert why_absent(absent, "tvm", facts) == "has no files: a bug"
    assert why_absent(absent, "tvm", {**facts, "batch": 1}) is None
    assert why_absent(absent, "ncnn-vulkan-fp16", facts) == "has no files: no pnnx"
    assert why_absent(absent, "onnxruntime", facts) is None


@pytest.mark.parametrize(("most", "said"), [(1, False), (0, True)])
def test_an_archive_that_is_too_large_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    most: int,
    said: bool,
) -> None:
    def prebuild(folder: Path, *_: Any) -> dict[str, Any]:
        packed_file(folder).write_bytes(b"12345")
        return {"absent": {"tvm": {ALL: "no TVM"}}}

    monkeypatch.setattr(bench_gpu, "prebuild", prebuild)
    monkeypatch.setattr(bench_gpu, "MAX_ARCHIVE_MIB", most)
    options = {"target": "cuda", "precision": ["fp32"], "quick": True, "only": None}
    options |= {"batches": None, "prebuild": tmp_path / "built", "json": False}
    found = bench_gpu.build(argparse.Namespace(**options))
    assert found["archive_bytes"] == 5
    text = capsys.readouterr().out
    assert "built.tar.xz: 0.0 MiB" in text
    assert "no files of tvm for all networks: no TVM" in text
    assert ("more than" in text) is said
