"""Batches by seed, step, part and stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ofa_compile.training.batches import BatchSource
from ofa_compile.training.data import ImageData

NUM_IMAGES = 30


@pytest.fixture
def source() -> BatchSource:
    """Batches of 7 of 30 images, which their labels tell apart."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (NUM_IMAGES, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(NUM_IMAGES)
    data = ImageData(
        train_images=images, train_labels=labels, test_images=images, test_labels=labels,
        labels=tuple(map(str, labels)), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25),
    )  # fmt: skip
    return BatchSource(data, labels, 7, seed=3)


def labels_of(source: BatchSource, steps: range, stream: int) -> list[int]:
    return torch.cat([source.batch(step, stream=stream)[1] for step in steps]).tolist()


def test_every_stream_passes_over_all_images_in_an_order_of_its_own(source: BatchSource) -> None:
    orders = [labels_of(source, range(30), stream)[: 2 * NUM_IMAGES] for stream in range(4)]
    for order in orders:
        assert sorted(order[:NUM_IMAGES]) == list(range(NUM_IMAGES))
        assert sorted(order[NUM_IMAGES:]) == list(range(NUM_IMAGES))
        assert order[:NUM_IMAGES] != order[NUM_IMAGES:]
    assert len({tuple(order[:NUM_IMAGES]) for order in orders}) == 4


def test_streams_augment_apart(source: BatchSource) -> None:
    # Of one image, however many copies: what two streams make of it differs somewhere.
    seen = [dict(zip(y.tolist(), x, strict=True)) for x, y in (
        (torch.cat([source.batch(s, stream=j)[0] for s in range(4)]),
         torch.cat([source.batch(s, stream=j)[1] for s in range(4)])) for j in (0, 1)
    )]  # fmt: skip
    common = seen[0].keys() & seen[1].keys()
    assert len(common) > 20
    assert sum(torch.equal(seen[0][k], seen[1][k]) for k in common) < len(common) // 2


@pytest.mark.parametrize("stream", [0, 2])
def test_batches_repeat_and_parts_share_them(source: BatchSource, stream: int) -> None:
    whole = source.batch(5, stream=stream)
    source.batch(0, stream=1)  # whatever was asked in between
    again = source.batch(5, stream=stream)
    assert torch.equal(whole[0], again[0])
    assert torch.equal(whole[1], again[1])
    parts = [source.batch(5, part, 3, stream=stream)[1] for part in range(3)]
    assert torch.equal(torch.cat(parts), whole[1])
