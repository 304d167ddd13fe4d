from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from ofa_compile.options import FinetuneOptions
from ofa_compile.space import search_space
from ofa_compile.workflows.finetuning import finetune


def test_specialised_subnet_is_exported_with_the_users_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog", "emu"):
        folder = tmp_path / "images" / "train" / label
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "broken").mkdir()
    (tmp_path / "images" / "train" / "cat" / "x.png").write_bytes(b"no image")
    architecture = tmp_path / "a.json"
    architecture.write_text(search_space("ofa_mbv3_cifar").smallest(24).to_json())
    stages: list[str] = []
    report = finetune(
        FinetuneOptions(
            data=tmp_path / "images",
            architecture=architecture,
            output=tmp_path / "net.onnx",
            epochs=1.0,
            batch_size=4,
            workspace=tmp_path / "work",
        ),
        lambda stage, done=0, total=None, *, detail="": stages.append(f"{stage} {detail}"),
    )
    assert report["classes"] == ["cat", "dog", "emu"]
    assert report["evaluated_on"] == "2 held-out images"
    assert report["skipped_images"] == ["train/cat/x.png"]
    assert any("images/s, loss" in stage for stage in stages)
    model = onnx.load(report["onnx"])
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert shape == [1, 3]
