"""Drawing a few images of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofa_compile.errors import DataError
from ofa_compile.training import image_sample
from ofa_compile.training.image_sample import sample_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 30 training and 4 test images, each of one grey, named by it."""
    for part, greys in (("train", range(30)), ("test", range(200, 204))):
        for grey in greys:
            folder = tmp_path / "photos" / part / f"class{grey % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12 + grey % 5, 10), (grey, grey, grey)).save(folder / f"{grey}.png")
    return tmp_path / "photos"


def greys(images: np.ndarray) -> list[int]:
    assert (images == images[:, :1, :1]).all()
    return images[:, 0, 0, 0].tolist()


def test_draws_without_repetition_and_decodes_no_more(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = image_sample.decode
    monkeypatch.setattr(
        image_sample, "decode", lambda *given: decoded.append(given) or decode(*given)
    )
    images = sample_images(photos, 7, size=8, seed=1)
    assert images.shape == (7, 8, 8, 3)
    assert images.dtype == np.uint8
    assert len(decoded) == 7
    assert len(set(greys(images))) == 7
    assert max(greys(images)) < 30
    assert greys(sample_images(photos, 7, size=8, seed=1)) == greys(images)
    assert greys(sample_images(photos, 7, size=8, seed=2)) != greys(images)
    assert sorted(greys(sample_images(photos, 100, size=8, seed=1))) == list(range(30))


def test_every_image_is_drawn_as_often(photos: Path) -> None:
    counts = np.zeros(30)
    for seed in range(200):
        for grey in greys(sample_images(photos, 6, size=2, seed=seed)):
            counts[grey] += 1
    # 40 expected, with a standard deviation of 5.7.
    assert counts.min() > 18
    assert counts.max() < 65
    assert abs(counts[:6].mean() - 40) < 10  # those that fill the places first are no exception


def test_test_images_are_taken_where_there_are_any(photos: Path) -> None:
    assert set(greys(sample_images(photos, 3, size=4, seed=0, prefers_test=True))) < {
        *range(200, 204)
    }
    images = sample_images(photos / "train", 3, size=4, seed=0, prefers_test=True)
    assert max(greys(images)) < 30


def test_damaged_images_are_left_out(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = photos / "train" / "class0" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert len(sample_images(photos, 100, size=8, seed=0)) == 29
    assert "skipped train/class0/0.png" in caplog.text


def test_no_images(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        sample_images(tmp_path / "nowhere", 3, size=8, seed=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no readable training images"):
        sample_images(tmp_path / "empty", 3, size=8, seed=0)
