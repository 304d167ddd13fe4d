"""Calibration images and accuracy of subnets compiled to int8."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ofa_compile.cache import digest
from ofa_compile.compiler.int8.prepare import Calibration
from ofa_compile.errors import UserInputError
from ofa_compile.options import SupernetOptions
from ofa_compile.space import Architecture
from ofa_compile.workflows import subnets
from ofa_compile.workflows.prepared_subnet import calibration_identity

if TYPE_CHECKING:
    from collections.abc import Callable

# Ranges settle long before batch-norm statistics do.
MAX_IMAGES = 256
_IMAGES_AT_ONCE = 100


def int8_calibration(options: SupernetOptions, architecture: Architecture) -> Calibration:
    """Return the images on which ranges are observed: of those for batch norm, spread over all.

    Raises
    ------
    UserInputError
        If calibration is switched off.
    """
    if options.no_calibration:
        msg = "int8 takes the ranges of its values from calibration images, and there are none"
        raise UserInputError(msg, hint="leave --no-calibration away, or use --precision fp32")

    def load() -> NDArray[np.float32]:
        from ofa_compile.training.data import normalize, resize

        images = subnets.calibration_images(options, architecture)
        assert images is not None  # refused above
        places = np.linspace(0, len(images) - 1, min(MAX_IMAGES, len(images))).astype(int)
        mean, std = subnets.normalization(subnets.load_options_supernet(options))
        x = resize(normalize(images[places], mean, std), architecture.resolution)
        return np.ascontiguousarray(x.numpy(), np.float32)

    where = options.calibration_data
    what = f"at most {MAX_IMAGES} images of {where.name if where else 'those that ship'}"
    identity = digest(calibration_identity(options), architecture.to_json(), str(options.seed))
    return Calibration(identity, what, load)


def binary_accuracy(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    options: SupernetOptions,
    architecture: Architecture,
    data: Path,
) -> tuple[float, int]:
    """Classify the test images of `data` by a binary; return top-1 accuracy and their number."""
    from ofa_compile.training.data import load_images, resize
    from ofa_compile.training.evaluate import test_set_images

    supernet = subnets.load_options_supernet(options)
    found = load_images(data, size=max(supernet.space.resolutions))
    mean, std = subnets.normalization(supernet)
    images = test_set_images(dataclasses.replace(found, mean=mean, std=std), held_out=0)
    labels, correct = np.asarray(images.labels), 0
    for first in range(0, len(labels), _IMAGES_AT_ONCE):
        part = slice(first, first + _IMAGES_AT_ONCE)
        x = resize(images.images[part], architecture.resolution).numpy()
        logits = run(np.ascontiguousarray(x, np.float32))
        correct += int((logits.argmax(axis=1) == labels[part]).sum())
    return correct / len(labels), len(labels)
