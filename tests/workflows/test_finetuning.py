from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from PIL import Image

from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.options import FinetuneOptions
from ofa_compile.space import Architecture, macs, search_space
from ofa_compile.workflows.finetuning import finetune


def options_for_noise(tmp_path: Path, **others: Any) -> FinetuneOptions:
    """Write three classes of noise, one image damaged, and the smallest architecture."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "emu"):
        folder = tmp_path / "images" / "train" / label
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "images" / "train" / "cat" / "x.png").write_bytes(b"no image")
    architecture = tmp_path / "a.json"
    architecture.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json())
    return FinetuneOptions(
        data=tmp_path / "images",
        architecture=architecture,
        epochs=1.0,
        batch_size=4,
        workspace=tmp_path / "work",
        **others,
    )


def test_specialised_subnet_is_exported_with_the_users_classes(tmp_path: Path) -> None:
    stages: list[str] = []
    report = finetune(
        options_for_noise(tmp_path, output=tmp_path / "net.onnx"),
        lambda stage, done=0, total=None, *, detail="": stages.append(f"{stage} {detail}"),
    )
    assert report["classes"] == ["cat", "dog", "emu"]
    assert report["evaluated_on"] == "2 held-out images"
    assert report["skipped_images"] == ["train/cat/x.png"]
    assert any("images/s, loss" in stage for stage in stages)
    model = onnx.load(report["onnx"])
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [1, 3]


def test_bundle_says_what_was_measured(tmp_path: Path) -> None:
    options = options_for_noise(tmp_path, target="host", output=tmp_path / "bundle")
    report = finetune(options)
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.labels == ("cat", "dog", "emu")
    architecture = Architecture.from_dict(manifest.architecture)
    assert architecture == search_space("ofa_mbv3_cifar").smallest(24)
    assert manifest.network["macs"] == macs(architecture, num_classes=3)
    figure = manifest.figures["accuracy_top1"]
    assert (figure.value, figure.kind) == (report["top1"], "measured")
    assert figure.source == "in PyTorch, 2 held-out images"
    assert manifest.verification["verified"]
