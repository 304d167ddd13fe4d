"""Random changes to training images: crops, flips, colours; each drawn from the generator given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Augmentation", "augmentation", "color_jitter", "pad_crop", "resized_crop"]

# Changes uint8 images of shape (n, height, width, 3) into ones of the same shape.
Augmentation = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def augmentation(crop: str, *, brightness: float = 0.0, saturation: float = 0.0) -> Augmentation:
    """Return what a recipe asks for.

    Parameters
    ----------
    crop
        "pad-crop" or "resized-crop".
    brightness, saturation
        Of `color_jitter`; with both 0, colours stay.
    """
    cropped = resized_crop if crop == "resized-crop" else pad_crop
    if brightness == saturation == 0.0:
        return cropped
    jitter = partial(color_jitter, brightness=brightness, saturation=saturation)
    return lambda images, rng: jitter(cropped(images, rng), rng)


def pad_crop(
    images: NDArray[np.uint8], rng: np.random.Generator, *, padding: int = 4
) -> NDArray[np.uint8]:
    """Crop each image at random out of its reflection-padded self, and flip half of them.

    Parameters
    ----------
    images
        Images of shape (n, height, width, 3), uint8.
    rng
        Source of the offsets and flips.
    padding
        Pixels added on each side before cropping.

    Returns
    -------
    Images of the same shape.
    """
    count, height, width, _ = images.shape
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, edges, mode="reflect")
    rows, columns = (
        rng.integers(0, 2 * padding + 1, (count, 1)) + np.arange(side) for side in (height, width)
    )
    flips = rng.random(count) < 0.5
    columns[flips] = columns[flips, ::-1]
    cropped: NDArray[np.uint8] = padded[
        np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return cropped


def resized_crop(
    images: NDArray[np.uint8], rng: np.random.Generator, *, smallest: float = 0.08
) -> NDArray[np.uint8]:
    """Take a random part of each image, scale it to the image's size, and flip half of them.

    Parameters
    ----------
    images
        Images of shape (n, height, width, 3), uint8.
    rng
        Source of the parts and flips.
    smallest
        Share of the area of the smallest part.

    Returns
    -------
    Images of the same shape.
    """
    _, height, width, _ = images.shape
    out = np.empty_like(images)
    for i, image in enumerate(images):
        area, aspect = rng.uniform(smallest, 1.0), np.exp(rng.uniform(-1.0, 1.0) * np.log(4 / 3))
        rows = min(height, max(1, round(height * float(np.sqrt(area / aspect)))))
        columns = min(width, max(1, round(width * float(np.sqrt(area * aspect)))))
        top = int(rng.integers(0, height - rows + 1))
        left = int(rng.integers(0, width - columns + 1))
        part = Image.fromarray(image[top : top + rows, left : left + columns])
        scaled = np.asarray(part.resize((width, height), Image.Resampling.BILINEAR))
        out[i] = scaled[:, ::-1] if rng.random() < 0.5 else scaled
    return out


def color_jitter(
    images: NDArray[np.uint8], rng: np.random.Generator, *, brightness: float, saturation: float
) -> NDArray[np.uint8]:
    """Scale the brightness of each image, then its distance from grey.

    Parameters
    ----------
    images
        Images of shape (n, height, width, 3), uint8.
    rng
        Source of the factors.
    brightness, saturation
        Each factor is uniform from 1 minus this to 1 plus this.

    Returns
    -------
    Images of the same shape.
    """
    shape = (len(images), 1, 1, 1)
    light, colour = (
        rng.uniform(1.0 - spread, 1.0 + spread, shape).astype(np.float32)
        for spread in (brightness, saturation)
    )
    x = images * light
    grey = (x @ _LUMA)[..., None]
    return np.clip(np.rint(grey + (x - grey) * colour), 0, 255).astype(np.uint8)
