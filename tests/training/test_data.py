from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_compile.errors import DataError
from ofa_compile.training import data as training_data
from ofa_compile.training.augmentation import pad_crop
from ofa_compile.training.data import (
    load_images,
    normalize,
    resize,
    split_indices,
)


def test_folder_is_read_in_order(image_folder: Path) -> None:
    data = load_images(image_folder)
    assert data.labels == ("blue", "green", "red")
    assert data.train_images.shape == (60, 24, 24, 3)
    assert data.test_images.shape == (18, 24, 24, 3)
    assert data.train_labels.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    assert data.skipped == ()
    # Class i has the bright channel 2 - i.
    assert data.train_images[0].mean(axis=(0, 1)).argmax() == 2
    exact = data.train_images.reshape(-1, 3) / 255.0
    assert np.allclose(data.mean, exact.mean(axis=0), atol=1e-4)
    assert np.allclose(data.std, exact.std(axis=0), atol=1e-4)


def test_archive_and_folder_without_split_agree(image_folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "images.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(image_folder, arcname="set")
    folder, packed = load_images(image_folder), load_images(archive)
    assert np.array_equal(folder.train_images, packed.train_images)
    assert np.array_equal(folder.test_labels, packed.test_labels)
    plain = load_images(image_folder / "train")
    assert np.array_equal(plain.train_images, folder.train_images)
    assert len(plain.test_images) == 0


def test_corrupt_images_are_skipped_and_listed(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(image_folder, root)
    whole = (root / "train/red/0003.png").read_bytes()
    (root / "train/red/0003.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/green/0001.png").write_bytes(b"not an image")
    (root / "train/green/0002.png").write_bytes(b"")
    data = load_images(root, cache=tmp_path / "cache")
    assert data.skipped == ("train/green/0001.png", "train/green/0002.png", "train/red/0003.png")
    assert len(data.train_images) == 57
    assert "train/red/0003.png" in caplog.text
    again = load_images(root, cache=tmp_path / "cache")
    assert again.skipped == data.skipped


def test_cache_is_used_and_follows_the_files(image_folder: Path, tmp_path: Path) -> None:
    root, cache = tmp_path / "copy", tmp_path / "cache"
    shutil.copytree(image_folder, root)
    first = load_images(root, cache=cache)
    (file,) = cache.iterdir()
    second = load_images(root, cache=cache)
    assert np.array_equal(first.train_images, second.train_images)
    assert second.labels == first.labels
    assert second.mean == first.mean
    (root / "train/red/0000.png").unlink()
    assert len(load_images(root, cache=cache).train_images) == 59
    assert len(list(cache.iterdir())) == 2
    assert file.exists()


def test_sizes_are_unified(tmp_path: Path) -> None:
    for label, size in (("a", (40, 30)), ("b", (16, 16)), ("b", (20, 50))):
        folder = tmp_path / "train" / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "red").save(folder / f"{size[0]}.png")
    assert load_images(tmp_path, size=24).train_images.shape == (3, 24, 24, 3)
    assert load_images(tmp_path).train_images.shape == (3, 30, 30, 3)


def test_bad_sources_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_images(tmp_path / "none")
    with pytest.raises(DataError, match="no readable training images"):
        load_images(tmp_path)
    broken = tmp_path / "broken.tar.xz"
    broken.write_bytes(b"\xfd7zXZ\x00 garbage")
    with pytest.raises(DataError, match=r"broken\.tar\.xz as a tar archive"):
        load_images(broken)


def test_more_images_than_memory_are_refused(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room for ten images of 24x24 and not for eleven.
    monkeypatch.setattr(training_data, "_physical_memory", lambda: int(10.5 * 24 * 24 * 3 / 0.45))
    message = r"does not fit into memory: .* the first 11 at 24x24 take 45% of"
    with pytest.raises(DataError, match=message) as caught:
        load_images(image_folder)
    assert "smaller ones" in str(caught.value.hint)


def test_split_is_stable_and_complete() -> None:
    kept, held = split_indices(100, 30)
    again, _ = split_indices(100, 30)
    assert np.array_equal(kept, again)
    assert len(held) == 30
    assert sorted([*kept, *held]) == list(range(100))


def test_normalize_and_resize() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    x = normalize(images, (0.5, 0.4, 0.3), (0.2, 0.2, 0.25))
    assert x.is_contiguous(memory_format=torch.channels_last)
    expected = (images[1, 2, 3] / 255.0 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.25]
    assert np.allclose(x[1, :, 2, 3], expected, atol=1e-5)
    small = resize(x, 24)
    assert small.shape == (3, 3, 24, 24)
    assert torch.allclose(small.mean(dim=(2, 3)), x.mean(dim=(2, 3)), atol=0.03)
    assert resize(x, 32) is x


def test_augment_shifts_and_flips_only(rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (64, 12, 12, 3), dtype=np.uint8)
    out = pad_crop(images, rng, padding=2)
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    flipped = 0
    for image, source in zip(out, padded, strict=True):
        crops = [(source[y : y + 12, x : x + 12]) for y in range(5) for x in range(5)]
        plain = any(np.array_equal(image, crop) for crop in crops)
        mirrored = any(np.array_equal(image, crop[:, ::-1]) for crop in crops)
        assert plain or mirrored
        flipped += mirrored and not plain
    assert 10 < flipped < 54
