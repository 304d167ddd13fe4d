"""Batches of training images, given by seed and step alone, so that any step can be repeated."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ofa_compile.training.augmentation import Augmentation, pad_crop
from ofa_compile.training.data import ImageData, normalize

__all__ = ["BatchSource"]

_STREAMS = 1 << 16  # beyond any number of parts, so that a stream's seed is no part's


class BatchSource:
    """Batches of the training images by step number: shuffled per epoch, augmented per step.

    Parameters
    ----------
    data
        Data set.
    kept
        Indices of the images to train on.
    batch_size
        Images per step, over all parts.
    seed
        Seed of order and augmentation.
    augment
        What happens to the images of each step.
    """

    def __init__(
        self,
        data: ImageData,
        kept: NDArray[np.int64],
        batch_size: int,
        seed: int,
        augment: Augmentation = pad_crop,
    ) -> None:
        self._data, self._kept = data, kept
        self._size, self._seed = min(batch_size, len(kept)), seed
        self._augment = augment
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}  # by stream

    @property
    def num_images(self) -> int:
        """Images of one epoch."""
        return len(self._kept)

    def _permutation(self, epoch: int, stream: int) -> NDArray[np.int64]:
        if stream not in self._orders or self._orders[stream][0] != epoch:
            rng = np.random.default_rng([self._seed, 1, epoch, *_key(stream)])
            self._orders[stream] = (epoch, rng.permutation(self._kept))
        return self._orders[stream][1]

    def batch(
        self, step: int, part: int = 0, parts: int = 1, *, stream: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the normalised images, channels-last, and labels of one part of a step.

        Each stream passes over all images, in an order and with augmentations of its own.
        """
        start = step * self._size
        positions = np.arange(start, start + self._size)
        epochs = positions // len(self._kept)
        index = np.concatenate(
            [
                self._permutation(int(epoch), stream)[positions[epochs == epoch] % len(self._kept)]
                for epoch in np.unique(epochs)
            ]
        )
        index = np.array_split(index, parts)[part]
        # A batch of one part has no part in its key.
        part_key = [part] if parts > 1 else []
        rng = np.random.default_rng([self._seed, 2, step, *part_key, *_key(stream)])
        images = self._augment(self._data.train_images[index], rng)
        labels = torch.from_numpy(self._data.train_labels[index])
        return normalize(images, self._data.mean, self._data.std), labels


def _key(stream: int) -> list[int]:
    """Return what a stream adds to the seeds; nothing for the first."""
    return [_STREAMS + stream] if stream else []
