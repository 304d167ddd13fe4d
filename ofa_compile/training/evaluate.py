"""Accuracy of subnets: one, or many into an append-only data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ofa_compile.errors import ConfigError, DataError
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord, append_record, read_records
from ofa_compile.space import Architecture
from ofa_compile.supernet import Supernet
from ofa_compile.training.allocator import keep_memory
from ofa_compile.training.bn_calibration import calibrate_bn
from ofa_compile.training.channels_last import use_channels_last
from ofa_compile.training.data import ImageData, normalize, resize, split_indices
from ofa_compile.training.prefix_evaluation import PrefixEvaluator, can_evaluate

__all__ = [
    "EvaluationImages",
    "calibrated_subnet",
    "evaluate_architectures",
    "evaluate_subnet",
    "held_out_images",
    "test_set_images",
]

_NUM_VIEWS = 4
_WINDOW = 64  # subnets ordered for sharing at a time; each window computes the stem anew


@dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """Images to evaluate on and to calibrate with.

    Attributes
    ----------
    images
        Normalised images of shape (n, 3, height, width), float32.
    labels
        Classes of shape (n,).
    calibration
        Normalised images for BN calibration, none of which is in `images`.
    data
        What the images are: ``train-held-out`` or ``test``.
    calibration_seed
        Seed that the calibration images were chosen with.
    view
        How the images were turned; 0 is as they are.
    """

    images: Tensor
    labels: Tensor
    calibration: Tensor
    data: str
    calibration_seed: int = 0
    view: int = 0


def _evaluation_images(
    data: ImageData,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    calibration_index: NDArray[np.int64],
    name: str,
    calibration_seed: int = 0,
) -> EvaluationImages:
    if len(images) == 0:
        message = f"there are no images to evaluate on ({name})"
        raise DataError(message)
    return EvaluationImages(
        images=normalize(images, data.mean, data.std),
        labels=torch.from_numpy(labels),
        calibration=normalize(data.train_images[calibration_index], data.mean, data.std),
        data=name,
        calibration_seed=calibration_seed,
    )


def _calibration_index(kept: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose training images to calibrate on, the same for every caller."""
    return np.random.default_rng(seed).permutation(kept)[:count]


def held_out_images(
    data: ImageData,
    *,
    held_out: int = 5000,
    count: int = 2000,
    calibration: int = 500,
    calibration_seed: int = 0,
    view: int = 0,
) -> EvaluationImages:
    """Return `count` of the training images that `train` held out, and calibration images.

    Parameters
    ----------
    data
        Data set.
    held_out
        How many images training held out (the recipe's `held_out`).
    count
        How many of them to evaluate on.
    calibration
        Training images to calibrate on.
    calibration_seed
        Seed of their choice: another gives other images, to see what the choice matters.
    view
        0 for the images as they are, 1 mirrored, 2 and 3 these shifted by a pixel: all of them
        what training's crops and flips show as well. Accuracies on several views have less noise.

    Raises
    ------
    ConfigError
        If there is no such view.
    """
    if view not in range(_NUM_VIEWS):
        message = f"there is no view {view} of the images; allowed: 0 to {_NUM_VIEWS - 1}"
        raise ConfigError(message)
    kept, held = split_indices(len(data.train_images), held_out)
    held = np.random.default_rng(0).permutation(held)[:count]
    index = _calibration_index(kept, calibration, calibration_seed)
    images, labels = data.train_images[held], data.train_labels[held]
    found = _evaluation_images(data, images, labels, index, "train-held-out", calibration_seed)
    return dataclasses.replace(found, images=_turned(found.images, view), view=view)


def _turned(images: Tensor, view: int) -> Tensor:
    """Return a view of images: shifted by a pixel (2 and 3), mirrored (1 and 3)."""
    if view >= 2:
        images = functional.pad(images, (1, 0, 1, 0), mode="reflect")[..., :-1, :-1]
    return (images.flip(-1) if view % 2 else images).contiguous()


def test_set_images(
    data: ImageData,
    *,
    held_out: int = 5000,  # noqa: PT028 - not a test
    calibration: int = 2000,  # noqa: PT028
) -> EvaluationImages:
    """Return the test images, with training images to calibrate on."""
    kept, _ = split_indices(len(data.train_images), held_out)
    index = _calibration_index(kept, calibration)
    return _evaluation_images(data, data.test_images, data.test_labels, index, "test")


test_set_images.__test__ = False  # type: ignore[attr-defined]  # pytest: not a test


@torch.no_grad()
def evaluate_subnet(
    subnet: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 100
) -> float:
    """Return the fraction of images whose class a subnet gets right.

    Parameters
    ----------
    subnet
        Network in evaluation mode.
    images
        Normalised images of shape (n, 3, height, width) at the subnet's resolution.
    labels
        Classes of shape (n,).
    batch_size
        Images per pass.
    """
    if len(images) == 0:
        message = "there are no images to evaluate on"
        raise DataError(message)
    correct = 0
    for start in range(0, len(images), batch_size):
        y = labels[start : start + batch_size]
        x = images[start : start + batch_size].contiguous(memory_format=torch.channels_last)
        correct += int((subnet(x).argmax(dim=1) == y).sum())
    return correct / len(images)


def calibrated_subnet(
    supernet: Supernet, architecture: Architecture, calibration: Tensor
) -> nn.Module:
    """Extract a subnet and calibrate its batch norms.

    Parameters
    ----------
    supernet
        Source of the weights.
    architecture
        Which subnet.
    calibration
        Normalised images of any size; scaled to the architecture's resolution.

    Returns
    -------
    Static subnet in evaluation mode.
    """
    subnet = use_channels_last(supernet.extract(architecture))
    calibrate_bn(subnet, resize(calibration, architecture.resolution))
    return subnet


def evaluate_architectures(
    supernet: Supernet,
    architectures: Sequence[Architecture],
    images: EvaluationImages,
    output: Path,
    *,
    progress: Callable[[int, int, AccuracyRecord | None], None] | None = None,
) -> list[AccuracyRecord]:
    """Evaluate subnets and append each accuracy to a data set as it is known.

    Architectures that the data set already holds for the same weights and images are passed over,
    so an interrupted call goes on where it stopped. Subnets that begin with the same blocks share
    that work, where `PrefixEvaluator` serves the supernet.

    Parameters
    ----------
    supernet
        Source of the weights.
    architectures
        Subnets to evaluate; duplicates are evaluated once.
    images
        Images to evaluate on and to calibrate with.
    output
        JSON Lines file, created if need be.
    progress
        Called for every subnet with the number done, the total and the record (None for one that
        was there before).

    Returns
    -------
    One record per distinct architecture, in order of first appearance.

    Raises
    ------
    DataError
        If `output` exists and is no accuracy data set.
    ArchitectureError
        If an architecture lies outside the supernet's space.
    """
    for architecture in architectures:
        supernet.space.validate(architecture)
    keep_memory()
    weights = supernet.weights_hash
    template = AccuracyRecord(
        architecture=supernet.space.smallest(),
        top1=0.0,
        num_images=len(images.images),
        num_calibration_images=len(images.calibration),
        data=images.data,
        supernet=weights,
        calibration_seed=images.calibration_seed,
        view=images.view,
    )
    records = {r.architecture: r for r in read_records(output) if _is_comparable(r, template)}
    distinct = list(dict.fromkeys(architectures))
    done = 0
    for architecture in distinct:
        if architecture in records and progress is not None:
            done += 1
            progress(done, len(distinct), None)
    missing = [a for a in distinct if a not in records]
    for architecture, top1 in _accuracies(supernet, missing, images):
        record = dataclasses.replace(template, architecture=architecture, top1=top1)
        append_record(output, record)
        records[architecture] = record
        done += 1
        if progress is not None:
            progress(done, len(distinct), record)
    return [records[architecture] for architecture in distinct]


def _is_comparable(record: AccuracyRecord, template: AccuracyRecord) -> bool:
    """Tell whether two records differ in nothing but the subnet and its accuracy."""
    same = dataclasses.replace(record, architecture=template.architecture, top1=template.top1)
    return same == template


def _accuracies(
    supernet: Supernet, architectures: list[Architecture], images: EvaluationImages
) -> Iterator[tuple[Architecture, float]]:
    """Yield subnets and their top-1, some at a time so that an interrupted run is a fair sample."""
    scaled = _ScaledImages(images)
    if not can_evaluate(supernet):
        for architecture in architectures:
            evaluation, calibration = scaled.at(architecture.resolution)
            subnet = calibrated_subnet(supernet, architecture, calibration)
            yield architecture, evaluate_subnet(subnet, evaluation, images.labels)
        return
    evaluator = PrefixEvaluator(supernet, scaled.at, images.labels)
    for start in range(0, len(architectures), _WINDOW):
        yield from evaluator.evaluate(architectures[start : start + _WINDOW])


class _ScaledImages:
    """The images at each resolution, scaled once."""

    def __init__(self, images: EvaluationImages) -> None:
        self._images = images
        self._scaled: dict[int, tuple[Tensor, Tensor]] = {}

    def at(self, resolution: int) -> tuple[Tensor, Tensor]:
        """Return evaluation and calibration images at a resolution."""
        if resolution not in self._scaled:
            both = (self._images.images, self._images.calibration)
            first, second = (resize(x, resolution) for x in both)
            self._scaled[resolution] = (first, second)
        return self._scaled[resolution]
