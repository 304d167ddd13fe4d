"""Where labelled images come from, one item at a time and not yet decoded.

Accepted are

* a folder with one folder of images per class, below ``train/`` and ``test/`` (or without them:
  then there are no test images), or a tar archive of such folders;
* a folder of IDX files, as MNIST and Fashion-MNIST are published, plain or gzipped;
* with the package `datasets`: a folder of Parquet files or one written by ``save_to_disk``, or
  ``hf:<id>`` for a data set of the Hugging Face hub.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ofa_compile.errors import DataError, MissingDependencyError

__all__ = ["HUB_PREFIX", "UNREADABLE", "Item", "decode", "read_items"]

HUB_PREFIX = "hf:"
# What decoding an image may raise.
UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError)
Content = bytes | Path | NDArray[np.uint8]
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}
_TEST_NAMES = ("test", "val", "validation")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One labelled image.

    Attributes
    ----------
    is_test
        Whether it is a test image.
    label
        Name of its class.
    name
        Unique in its data set.
    content
        The image file or its path, or its pixels of shape (height, width) or (height, width, 3).
    """

    is_test: bool
    label: str
    name: str
    content: Content


def decode(content: Content, size: int | None) -> NDArray[np.uint8]:
    """Decode one image to RGB; with `size`, scale and crop it to a square of that size.

    A JPEG of at least four times that is decoded at a half, a quarter or an eighth of its size
    (not less than twice what is asked for): the means of its pixels, for a fraction of the time.

    Raises
    ------
    One of `UNREADABLE`
        If it is no image, or a damaged one.
    """
    with _opened(content) as file:
        if size is not None:
            file.draft(None, (2 * size, 2 * size))
        image = file.convert("RGB")
        if size is not None and image.size != (size, size):
            scale = size / min(image.size)
            wanted = [max(size, round(side * scale)) for side in image.size]
            image = image.resize((wanted[0], wanted[1]), Image.Resampling.BILINEAR)
            left, top = (wanted[0] - size) // 2, (wanted[1] - size) // 2
            image = image.crop((left, top, left + size, top + size))
        return np.asarray(image, dtype=np.uint8)


def _opened(content: Content) -> Image.Image:
    if isinstance(content, np.ndarray):
        return Image.fromarray(content)
    return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content)


def read_items(source: str) -> Iterator[Item]:
    """Yield the images of a data set; `source` is a path, or an id after `HUB_PREFIX`.

    Raises
    ------
    DataError
        If files are damaged or of a form that is not known.
    MissingDependencyError
        If the package `datasets` is needed and not there.
    """
    path = Path(source)
    if source.startswith(HUB_PREFIX):
        return _hub_items(source)
    if path.is_dir():
        if any(path.glob("*-idx3-ubyte*")):
            return _idx_items(path)
        if (path / "dataset_dict.json").is_file() or any(path.rglob("*.parquet")):
            return _hub_items(source)
        return _file_items(_folder_files(path))
    return _file_items(_archive_files(path))


def _folder_files(root: Path) -> Iterator[tuple[PurePosixPath, Content]]:
    """Yield every image file below `root` by its relative and its whole path, sorted."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            yield PurePosixPath(path.relative_to(root).as_posix()), path


def _archive_files(path: Path) -> Iterator[tuple[PurePosixPath, Content]]:
    """Yield the path and the content of every image file in a tar archive, in archive order."""
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isfile() else None
                if content is not None and name.suffix.lower() in _SUFFIXES:
                    yield name, content.read()
    except (tarfile.TarError, EOFError, OSError) as err:
        message = f"cannot read {path} as a tar archive: {err}"
        raise DataError(message, hint="Give a folder with one folder of images per class.") from err


def _file_items(files: Iterator[tuple[PurePosixPath, Content]]) -> Iterator[Item]:
    """Read class and part off the folders that a file lies in."""
    for name, content in files:
        parts = name.parts
        label = parts[-2] if len(parts) > 1 else ""
        is_test = len(parts) > 2 and parts[-3] in _TEST_NAMES
        yield Item(is_test=is_test, label=label, name=str(name), content=content)


def _idx_items(folder: Path) -> Iterator[Item]:
    """Read ``train-images-idx3-ubyte`` and its like; classes are called by their numbers."""
    for prefix, is_test in (("train", False), ("t10k", True)):
        found = sorted(folder.glob(f"{prefix}-images-idx3-ubyte*"))
        if not found:
            continue
        labels_name = found[0].name.replace("images-idx3", "labels-idx1")
        images, labels = _read_idx(found[0], 3), _read_idx(folder / labels_name, 1)
        if len(images) != len(labels):
            message = f"{folder}: {len(images)} images but {len(labels)} labels of {prefix!r}"
            raise DataError(message, hint="Download both files again.")
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            name = f"{prefix}/{number:06}"
            yield Item(is_test=is_test, label=str(label), name=name, content=image)


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: magic number, big-endian sizes, values."""
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError) as err:
        message = f"cannot read {path}: {err}"
        raise DataError(message, hint="Download it again.") from err
    header = 4 + 4 * dimensions
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    is_whole = len(shape) == dimensions and len(content) == header + int(np.prod(shape))
    if content[:4] != bytes([0, 0, 8, dimensions]) or not is_whole:
        message = f"{path} is not a whole IDX file of {dimensions}-dimensional bytes"
        raise DataError(message, hint="Download it again.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _hub_items(source: str) -> Iterator[Item]:
    """Read a data set through Hugging Face's `datasets`; image files stay undecoded."""
    try:
        import datasets
    except ImportError as err:
        message = f"reading {source} needs the package datasets"
        raise MissingDependencyError(message, hint="pip install datasets") from err
    for split, table in _load_splits(datasets, source).items():
        image, label = _columns(datasets, table.features, source)
        names = table.features[label]
        is_test = any(split.startswith(name) for name in _TEST_NAMES)
        for number, row in enumerate(_rows(table, [image, label])):
            content, value = row[image]["bytes"], row[label]
            if content is None:
                content = Path(row[image]["path"]).read_bytes()
            text = names.int2str(value) if isinstance(names, datasets.ClassLabel) else str(value)
            yield Item(is_test=is_test, label=text, name=f"{split}/{number:08}", content=content)


def _rows(table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield rows as Arrow has them: images are files, not decoded."""
    for batch in table.data.to_batches(max_chunksize=256):
        yield from batch.select(columns).to_pylist()


def _load_splits(datasets: Any, source: str) -> dict[str, Any]:
    """Open a data set, local or of the hub, as a table per split."""
    path = Path(source)
    try:
        if source.startswith(HUB_PREFIX):
            return dict(datasets.load_dataset(source.removeprefix(HUB_PREFIX)))
        if (path / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(source))
        files: dict[str, list[str]] = {}
        for file in sorted(path.rglob("*.parquet")):
            is_test = any(name in file.stem for name in _TEST_NAMES)
            files.setdefault("test" if is_test else "train", []).append(str(file))
        return dict(datasets.load_dataset("parquet", data_files=files))
    except Exception as err:  # whatever the hub, the network or pyarrow raise
        message = f"cannot open the data set {source}: {err}"
        hint = "Give the id of a data set on the Hugging Face hub, or a folder of Parquet files."
        raise DataError(message, hint=hint) from err


def _columns(datasets: Any, features: dict[str, Any], source: str) -> tuple[str, str]:
    """Return the names of the image column and of the class column."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    classes += [name for name in ("label", "labels") if name in features and name not in classes]
    if not images or not classes:
        message = f"{source} has the columns {', '.join(features)}; none is an image, or no class"
        raise DataError(message, hint="Needed: a column of type Image and one of type ClassLabel.")
    return images[0], classes[0]
