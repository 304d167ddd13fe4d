from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ofa_compile.errors import ArchitectureError, ConfigError, DataError
from ofa_compile.predictors.accuracy_dataset import AccuracyRecord, read_records
from ofa_compile.space import search_space
from ofa_compile.supernet import Supernet, build_supernet
from ofa_compile.training.data import ImageData, load_images, split_indices
from ofa_compile.training.evaluate import (
    EvaluationImages,
    evaluate_architectures,
    evaluate_subnet,
    held_out_images,
)
from ofa_compile.training.evaluate import test_set_images as images_of_test_set

SPACE = search_space("ofa_mbv3_cifar")


@pytest.fixture(scope="module")
def data(image_folder: Path) -> ImageData:
    return load_images(image_folder, size=32)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return build_supernet(SPACE, num_classes=3, seed=0).eval()


@pytest.fixture
def images(data: ImageData) -> EvaluationImages:
    return held_out_images(data, held_out=12, count=10, calibration=16)


def test_images_do_not_overlap(data: ImageData, images: EvaluationImages) -> None:
    assert images.data == "train-held-out"
    assert len(images.images) == 10
    assert len(images.calibration) == 16
    pool = {x.numpy().tobytes() for x in images.calibration}
    assert not any(x.numpy().tobytes() in pool for x in images.images)
    kept, held = split_indices(len(data.train_images), 12)
    assert not set(kept) & set(held)
    assert len(images_of_test_set(data, held_out=12, calibration=8).images) == 18


def test_top1_counts_right_answers() -> None:
    class Known(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, 0, 0]

    images = torch.zeros(7, 3, 2, 2)
    images[torch.arange(7), torch.tensor([0, 1, 2, 0, 1, 2, 0])] = 1.0
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 1])
    assert evaluate_subnet(Known(), images, labels, batch_size=3) == 5 / 7
    with pytest.raises(DataError, match="no images"):
        evaluate_subnet(Known(), images[:0], labels[:0])


def test_data_set_is_resumed(
    supernet: Supernet, images: EvaluationImages, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "sub" / "accuracy.jsonl"
    architectures = [SPACE.sample(rng) for _ in range(4)]
    calls: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int, record: AccuracyRecord | None) -> None:
        calls.append((done, total, record is not None))

    first = evaluate_architectures(supernet, architectures[:2], images, path)
    # A writer killed in the middle of the third record.
    with path.open("a") as stream:
        stream.write('{"schema_version": 1, "archit')
    both = [*architectures, architectures[1]]
    records = evaluate_architectures(supernet, both, images, path, progress=progress)
    assert records[:2] == first
    assert calls == [(1, 4, False), (2, 4, False), (3, 4, True), (4, 4, True)]
    # Within a window the file is in the order that shares most.
    assert sorted(map(str, read_records(path))) == sorted(map(str, records))
    assert [r.architecture for r in records] == architectures
    assert all(r.supernet == supernet.weights_hash for r in records)
    # Other weights or images are other measurements.
    other = build_supernet(SPACE, num_classes=3, seed=1).eval()
    evaluate_architectures(other, architectures[:1], images, path)
    assert len(read_records(path)) == 5


def test_foreign_architecture_is_refused_before_any_work(
    supernet: Supernet, images: EvaluationImages, tmp_path: Path
) -> None:
    foreign = search_space("ofa_mbv3_d234_e346_k357_w1.0").smallest()
    path = tmp_path / "accuracy.jsonl"
    with pytest.raises(ArchitectureError):
        evaluate_architectures(supernet, [SPACE.smallest(), foreign], images, path)
    assert not path.exists()


def test_another_choice_of_calibration_images_is_another_measurement(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    path = tmp_path / "accuracy.jsonl"
    for seed in (0, 1):
        images = held_out_images(data, held_out=12, count=10, calibration=16, calibration_seed=seed)
        evaluate_architectures(supernet, [SPACE.smallest()], images, path)
    assert [r.calibration_seed for r in read_records(path)] == [0, 1]


def test_views_are_mirrored_and_shifted(data: ImageData) -> None:
    plain, mirrored, shifted, both = (
        held_out_images(data, held_out=12, count=10, calibration=16, view=view) for view in range(4)
    )
    assert torch.equal(mirrored.images, plain.images.flip(-1))
    assert torch.equal(shifted.images[..., 1:, 1:], plain.images[..., :-1, :-1])
    assert torch.equal(both.images, shifted.images.flip(-1))
    assert [x.view for x in (plain, mirrored, shifted, both)] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="no view 7 of the images; allowed: 0 to 3"):
        held_out_images(data, held_out=12, count=10, calibration=16, view=7)
    for turned in (mirrored, shifted, both):
        assert torch.equal(turned.labels, plain.labels)
        assert torch.equal(turned.calibration, plain.calibration)


def test_another_view_is_another_measurement(
    supernet: Supernet, data: ImageData, tmp_path: Path
) -> None:
    path = tmp_path / "accuracy.jsonl"
    for view in (0, 1, 1):
        images = held_out_images(data, held_out=12, count=10, calibration=16, view=view)
        evaluate_architectures(supernet, [SPACE.smallest()], images, path)
    assert [r.view for r in read_records(path)] == [0, 1]


def test_other_families_are_evaluated_one_by_one(data: ImageData, tmp_path: Path) -> None:
    space = search_space("ofa_resnet50")
    supernet = build_supernet(space, num_classes=3, seed=0).eval()
    images = held_out_images(data, held_out=12, count=4, calibration=4)
    architecture = dataclasses.replace(space.smallest(), resolution=32)
    (record,) = evaluate_architectures(supernet, [architecture], images, tmp_path / "a.jsonl")
    assert record.architecture == architecture
