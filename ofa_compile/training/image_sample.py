"""A few images of a data set that may be far too large to decode."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ofa_compile.training.data import check_exists, no_images
from ofa_compile.training.sources import UNREADABLE, Item, decode, read_items

__all__ = ["sample_images"]

_LOGGER = logging.getLogger(__name__)


def sample_images(
    path: str | os.PathLike[str], count: int, *, size: int, seed: int, prefers_test: bool = False
) -> NDArray[np.uint8]:
    """Draw images uniformly and decode those alone; what cannot be decoded is left out.

    Parameters
    ----------
    path
        A data set, as `load_images` takes it.
    count
        How many to draw; all, if there are no more.
    size
        Height and width that every image is scaled and cropped to.
    seed
        Seed of the draw.
    prefers_test
        Draw test images where there are any; else training images.

    Returns
    -------
    Images of shape (n, size, size, 3), in random order.

    Raises
    ------
    DataError
        If the path does not exist, or none of the images drawn can be read.
    """
    source = os.fspath(path)
    check_exists(source)
    train, test = _draw(read_items(source), count, np.random.default_rng(seed))
    chosen = test if prefers_test and test else train
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = list(threads.map(partial(_decoded, size=size), chosen))
    images = [image for image in decoded if image is not None]
    if not images:
        raise no_images(source)
    return np.stack(images)


def _draw(
    items: Iterable[Item], count: int, rng: np.random.Generator
) -> tuple[list[Item], list[Item]]:
    """Draw training and test images in one pass (reservoir sampling: Vitter 1985, algorithm R)."""
    drawn: tuple[list[Item], list[Item]] = [], []
    seen = [0, 0]
    for item in items:
        kept = drawn[item.is_test]
        seen[item.is_test] += 1
        if len(kept) < count:
            kept.append(item)
        elif (place := int(rng.integers(seen[item.is_test]))) < count:
            kept[place] = item
    for kept in drawn:
        rng.shuffle(kept)
    return drawn


def _decoded(item: Item, size: int) -> NDArray[np.uint8] | None:
    try:
        return decode(item.content, size)
    except UNREADABLE as error:
        _LOGGER.warning("skipped %s: %s", item.name, error)
        return None
