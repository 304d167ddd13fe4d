"""Batches of training images, given by seed and step alone, so that any step can be repeated."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ofa_compile.training.augmentation import Augmentation, pad_crop
from ofa_compile.training.data import ImageData, normalize

__all__ = ["BatchSource"]


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
        self._order: tuple[int, NDArray[np.int64]] = (-1, kept)

    @property
    def num_images(self) -> int:
        """Images of one epoch."""
        return len(self._kept)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, 1, epoch])
            self._order = (epoch, rng.permutation(self._kept))
        return self._order[1]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        """Return the normalised images, channels-last, and labels of one part of a step."""
        start = step * self._size
        positions = np.arange(start, start + self._size)
        epochs = positions // len(self._kept)
        index = np.concatenate(
            [
                self._permutation(int(epoch))[positions[epochs == epoch] % len(self._kept)]
                for epoch in np.unique(epochs)
            ]
        )
        index = np.array_split(index, parts)[part]
        # The first part of one is the whole batch, drawn as ever.
        rng = np.random.default_rng([self._seed, 2, step, *([part] if parts > 1 else [])])
        images = self._augment(self._data.train_images[index], rng)
        labels = torch.from_numpy(self._data.train_labels[index])
        return normalize(images, self._data.mean, self._data.std), labels
