from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ofa_compile.training.augmentation import augmentation, color_jitter, resized_crop


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(60, 180, (5, 24, 24, 3), dtype=np.uint8)


def test_resized_crop_keeps_shape_and_seed() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 24, 24, 3), dtype=np.uint8)
    first, again, other = (resized_crop(images, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == images.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    whole = resized_crop(images, np.random.default_rng(3), smallest=1.0)
    assert abs(float(whole.mean()) - float(images.mean())) < 5.0


def test_color_jitter_stays_within_its_factors(images: NDArray[np.uint8]) -> None:
    bright = color_jitter(images, np.random.default_rng(0), brightness=0.125, saturation=0.0)
    ratios = bright.mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert (abs(ratios - 1.0) <= 0.13).all()
    assert len(set(ratios.round(3))) == len(images)  # a factor for each image
    factor = np.random.default_rng(0).uniform(0.875, 1.125, 5)
    assert np.allclose(ratios, factor, atol=0.003)


def test_color_jitter_keeps_grey_and_luma(images: NDArray[np.uint8]) -> None:
    coloured = color_jitter(images, np.random.default_rng(0), brightness=0.0, saturation=0.5)
    luma = np.array([0.299, 0.587, 0.114])
    assert abs(coloured @ luma - images @ luma).max() <= 1.0
    assert abs(coloured.astype(int) - images).max() > 5
    grey = np.repeat(images[..., :1], 3, axis=-1)
    same = color_jitter(grey, np.random.default_rng(0), brightness=0.0, saturation=0.5)
    assert np.array_equal(same, grey)


def test_a_recipe_without_colours_draws_the_same_crops_as_ever(images: NDArray[np.uint8]) -> None:
    plain = augmentation("resized-crop")(images, np.random.default_rng(1))
    assert np.array_equal(plain, resized_crop(images, np.random.default_rng(1)))
    changed = augmentation("resized-crop", saturation=0.5)(images, np.random.default_rng(1))
    assert changed.shape == plain.shape
    assert not np.array_equal(changed, plain)
