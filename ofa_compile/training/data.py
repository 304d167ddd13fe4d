"""Images for training and evaluation, decoded once and kept in memory as uint8.

What is accepted as a data set says `ofa_compile.training.sources`.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ofa_compile.errors import DataError
from ofa_compile.training.sources import HUB_PREFIX, UNREADABLE, decode, read_items

__all__ = ["ImageData", "load_images", "normalize", "resize", "split_indices"]

_LOGGER = logging.getLogger(__name__)
_CACHE_VERSION = 2
_MEMORY_SHARE = 0.45  # of all; putting images into one array takes as much again for a moment


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A decoded data set.

    Attributes
    ----------
    train_images, test_images
        Images of shape (n, height, width, 3), uint8, RGB.
    train_labels, test_labels
        Class indices of shape (n,), int64.
    labels
        Class names in index order.
    mean, std
        Per-channel mean and standard deviation of the training images, scaled to 0..1.
    skipped
        Files that could not be decoded.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    labels: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    skipped: tuple[str, ...] = field(default=())


def _read(source: str, size: int | None) -> ImageData:
    """Decode everything; unreadable images are listed, not fatal."""
    rows: list[tuple[bool, str, str, NDArray[np.uint8]]] = []
    skipped = []
    room = _MEMORY_SHARE * _physical_memory()
    for item in read_items(source):
        try:
            image = decode(item.content, size)
        except UNREADABLE as err:
            skipped.append(item.name)
            _LOGGER.warning("skipped %s: %s", item.name, err)
            continue
        if size is None:
            size = min(image.shape[:2])
            image = decode(item.content, size)
        rows.append((item.is_test, item.label, item.name, image))
        room -= image.nbytes
        if room < 0.0:
            raise _too_large(source, len(rows), image.shape)
    if not any(not row[0] for row in rows):
        raise no_images(source)
    rows.sort(key=lambda row: row[:3])
    return _assemble(rows, tuple(skipped))


def _physical_memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _too_large(source: str, count: int, shape: tuple[int, ...]) -> DataError:
    height, width = shape[:2]
    message = (
        f"{source} does not fit into memory: images are kept decoded, and the first {count} at "
        f"{height}x{width} take {_MEMORY_SHARE:.0%} of the {_physical_memory() >> 30} GiB here"
    )
    return DataError(message, hint="Use fewer images, or smaller ones, or a machine with more.")


def no_images(source: str) -> DataError:
    """Return the error for a data set without training images."""
    message = f"{source} holds no readable training images (one folder per class)"
    return DataError(message, hint="Expected <data>/train/<class>/<image>.jpg.")


def check_exists(source: str) -> None:
    """Raise a DataError if a data set is none of the hub, and not there."""
    if not source.startswith(HUB_PREFIX) and not Path(source).exists():
        message = f"data set {source} does not exist"
        hint = "Give a folder with one folder of images per class, or hf:<id> for one of the hub."
        raise DataError(message, hint=hint)


def _assemble(
    rows: list[tuple[bool, str, str, NDArray[np.uint8]]], skipped: tuple[str, ...]
) -> ImageData:
    """Build the data set from sorted rows of (is test, class, name, image)."""
    labels = sorted({label for _, label, _, _ in rows})
    index = {label: i for i, label in enumerate(labels)}
    train, test = ([row for row in rows if row[0] is is_test] for is_test in (False, True))
    shape = rows[0][3].shape
    images = [
        np.stack([row[3] for row in part]) if part else np.empty((0, *shape), np.uint8)
        for part in (train, test)
    ]
    targets = [np.array([index[row[1]] for row in part], np.int64) for part in (train, test)]
    mean, std = channel_statistics(images[0])
    return ImageData(
        train_images=images[0],
        train_labels=targets[0],
        test_images=images[1],
        test_labels=targets[1],
        labels=tuple(labels),
        mean=mean,
        std=std,
        skipped=skipped,
    )


def channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return per-channel mean and standard deviation in 0..1, rounded to four digits."""
    counts = [np.bincount(images[..., c].ravel(), minlength=256) for c in range(3)]
    levels = np.arange(256) / 255.0
    means = [float(np.average(levels, weights=count)) for count in counts]
    stds = [
        float(np.sqrt(np.average((levels - mean) ** 2, weights=count)))
        for mean, count in zip(means, counts, strict=True)
    ]
    mean = tuple(round(value, 4) for value in means)
    std = tuple(round(max(value, 1e-4), 4) for value in stds)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _fingerprint(path: Path, size: int | None, *, exists: bool) -> str:
    """Return a hash that changes when the data set on disk does (one of the hub: its name)."""
    digest = hashlib.sha256(f"{_CACHE_VERSION} {size}".encode())
    if not exists:
        digest.update(str(path).encode())
        return digest.hexdigest()[:16]
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        status = file.stat()
        name = file.name if path.is_file() else file.relative_to(path).as_posix()
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def load_images(
    path: str | os.PathLike[str], *, size: int | None = None, cache: Path | None = None
) -> ImageData:
    """Decode a data set, or take its decoded form from `cache`.

    Parameters
    ----------
    path
        Folder of class folders, with or without ``train/`` and ``test/``; a tar archive of it; a
        folder of IDX files; a data set of Hugging Face's `datasets`, local or "hf:<hub id>".
    size
        Height and width that every image is scaled and cropped to; None takes the first image's.
    cache
        Folder for the decoded arrays; None decodes anew.

    Returns
    -------
    The decoded data set.

    Raises
    ------
    DataError
        If the path does not exist or holds no readable training images.
    """
    name = os.fspath(path)
    check_exists(name)
    if cache is None:
        return _read(name, size)
    is_local = not name.startswith(HUB_PREFIX)
    file = cache / f"images-{_fingerprint(Path(name), size, exists=is_local)}.npz"
    if file.exists():
        with np.load(file) as stored:
            values = {name: stored[name] for name in stored.files}
        texts = {name: tuple(values.pop(name).tolist()) for name in ("labels", "skipped")}
        mean, std = (tuple(values.pop(name).tolist()) for name in ("mean", "std"))
        fields: dict[str, Any] = {**values, **texts, "mean": mean, "std": std}
        return ImageData(**fields)
    data = _read(name, size)
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(data).items()}
    arrays["skipped"] = np.asarray(data.skipped, dtype=np.str_)
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    partial.replace(file)
    return data


def split_indices(
    count: int, held_out: int, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split training image indices into those to train on and those held out.

    The split depends on `count` and `seed` only, so that `evaluate` holds out what `train` did.

    Returns
    -------
    Sorted index arrays: kept, held out.
    """
    order = np.random.default_rng([seed, count]).permutation(count)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def normalize(
    images: NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Tensor:
    """Turn uint8 NHWC images into a normalised float32 NCHW tensor in channels-last format."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32, copy=True)
    scale = torch.tensor(std).view(1, 3, 1, 1) * 255.0
    shift = torch.tensor(mean).view(1, 3, 1, 1) * 255.0
    return x.sub_(shift).div_(scale).contiguous(memory_format=torch.channels_last)


def resize(images: Tensor, resolution: int) -> Tensor:
    """Scale NCHW float images to `resolution`, bilinear with antialiasing."""
    if tuple(images.shape[-2:]) == (resolution, resolution):
        return images
    scaled = functional.interpolate(
        images, size=(resolution, resolution), mode="bilinear", antialias=True
    )
    return scaled.contiguous(memory_format=torch.channels_last)
