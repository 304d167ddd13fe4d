from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_compile.errors import DataError
from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet
from ofa_compile.training.calibration_images import (
    SynthesisConfig,
    load_calibration_images,
    save_calibration_images,
    synthesize,
)
from ofa_compile.training.data import load_images, normalize

SPACE = search_space("ofa_mbv3_cifar")


def test_synthesis_lowers_the_loss_and_is_repeatable(image_folder: Path) -> None:
    data = load_images(image_folder, size=24)
    supernet = build_supernet(SPACE, num_classes=3, seed=0).eval()
    supernet.metadata.update(mean=list(data.mean), std=list(data.std))
    real = normalize(data.train_images[::2], data.mean, data.std)
    losses: list[float] = []
    settings = SynthesisConfig(count=6, size=24, steps=8, class_weight=0.0)

    def make() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        losses.clear()
        return synthesize(
            supernet,
            [SPACE.smallest()],
            real,
            config=settings,
            progress=lambda step, total, loss: losses.append(loss),
        )

    images = make()
    assert images.shape == (6, 24, 24, 3)
    assert images.dtype == np.uint8
    assert len(losses) == 8
    assert losses[-1] < losses[0]
    assert np.array_equal(make(), images)


def test_file_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    path = tmp_path / "images.npz"
    save_calibration_images(path, images)
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    loaded = load_calibration_images(path, mean, std)
    assert torch.equal(loaded, normalize(images, mean, std))
    assert [p.name for p in tmp_path.iterdir()] == ["images.npz"]


def test_bad_files(tmp_path: Path) -> None:
    mean = std = (0.5, 0.5, 0.5)
    with pytest.raises(DataError, match="cannot read calibration images"):
        load_calibration_images(tmp_path / "none.npz", mean, std)
    other = tmp_path / "other.npz"
    np.savez(other, pictures=np.zeros(3))
    with pytest.raises(DataError, match="cannot read calibration images"):
        load_calibration_images(other, mean, std)
    flat = tmp_path / "flat.npz"
    np.savez(flat, images=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"uint8 of shape \(4, 8, 8\)"):
        load_calibration_images(flat, mean, std)
