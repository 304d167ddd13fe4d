from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ofa_compile.errors import DataError, MissingDependencyError
from ofa_compile.training.data import load_images
from ofa_compile.training.sources import decode, read_items


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    content = header + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def fashion(tmp_path: Path, rng: np.random.Generator) -> Path:
    for prefix, count, suffix in (("train", 12, ".gz"), ("t10k", 4, "")):
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{suffix}", images)
        labels = np.arange(count, dtype=np.uint8) % 3
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return tmp_path


def test_idx_files(fashion: Path) -> None:
    data = load_images(fashion, size=32)
    assert data.train_images.shape == (12, 32, 32, 3)
    assert data.test_images.shape == (4, 32, 32, 3)
    assert data.labels == ("0", "1", "2")
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert np.array_equal(data.train_images[..., 0], data.train_images[..., 2])  # grey
    exact = next(iter(read_items(str(fashion)))).content
    assert np.array_equal(load_images(fashion).train_images[0, :, :, 0], exact)


def test_damaged_idx_files_are_named(fashion: Path) -> None:
    labels = fashion / "t10k-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is not a whole IDX file"):
        load_images(fashion)
    write_idx(labels, np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="4 images but 3 labels of 't10k'"):
        load_images(fashion)
    labels.unlink()
    with pytest.raises(DataError, match=r"cannot read .*t10k-labels"):
        load_images(fashion)


def test_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="hf:someone/images needs the package"):
        load_images("hf:someone/images")
    (tmp_path / "train-0.parquet").touch()
    with pytest.raises(MissingDependencyError, match="needs the package datasets"):
        load_images(tmp_path)


@pytest.mark.filterwarnings("ignore")  # of datasets' own dependencies
def test_parquet_and_saved_data_sets(image_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = datasets.load_dataset("imagefolder", data_dir=str(image_folder))
    for split, table in folder.items():
        (tmp_path / "parquet").mkdir(exist_ok=True)
        table.to_parquet(str(tmp_path / "parquet" / f"{split}-0.parquet"))
    folder.save_to_disk(str(tmp_path / "saved"))
    plain = load_images(image_folder)
    for place in ("parquet", "saved"):
        data = load_images(tmp_path / place)
        assert data.labels == plain.labels
        assert data.train_images.shape == plain.train_images.shape
        assert data.train_labels.tolist() == plain.train_labels.tolist()
        assert data.test_images.sum() == plain.test_images.sum()
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bad" / "train.parquet")
    with pytest.raises(DataError, match="has the columns x; none is an image"):
        load_images(tmp_path / "bad")


def test_large_photographs_are_decoded_at_reduced_size(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = Image.fromarray(rng.integers(64, 192, (12, 16, 3), np.uint8))
    large = coarse.resize((1000, 750), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=92)
    whole = decode(np.asarray(Image.open(file)), 64)
    sizes: list[tuple[int, int]] = []
    convert = Image.Image.convert

    def watched(image: Image.Image, mode: str) -> Image.Image:
        sizes.append(image.size)
        return convert(image, mode)

    monkeypatch.setattr(Image.Image, "convert", watched)
    reduced = decode(file.getvalue(), 64).astype(int)
    assert sizes == [(250, 188)]
    assert np.abs(reduced - whole).mean() < 1
    assert np.abs(reduced - whole).max() < 12
    assert (decode(file.getvalue(), 200) == decode(np.asarray(Image.open(file)), 200)).all()
