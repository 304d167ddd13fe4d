"""The files beside the embedded weights belong together."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.supernet import Supernet, load_supernet
from ofa_compile.training.calibration_images import load_calibration_images
from ofa_compile.training.evaluate import calibrated_subnet

NAME = "ofa_mbv3_cifar"
WEIGHTS = Path(str(files("ofa_compile.weights")))

pytestmark = pytest.mark.skipif(
    not (WEIGHTS / f"{NAME}.safetensors").is_file(), reason="no embedded weights"
)


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet(NAME)


def test_weights_are_small_and_complete(supernet: Supernet) -> None:
    assert (WEIGHTS / f"{NAME}.safetensors").stat().st_size < 8 << 20
    assert supernet.num_classes == len(supernet.metadata["labels"]) == 10
    assert "automobile" in supernet.metadata["labels"]
    assert len(supernet.metadata["mean"]) == len(supernet.metadata["std"]) == 3


def test_predictor_was_fitted_on_these_weights(supernet: Supernet) -> None:
    predictor = AccuracyPredictor.load_embedded(NAME)
    assert predictor.report["supernet"] == supernet.weights_hash
    space = supernet.space
    smallest, largest = predictor.predict([space.smallest(), space.largest()])
    assert 0.5 < smallest < largest < 1.0


def test_calibration_images_calibrate(supernet: Supernet) -> None:
    path = WEIGHTS / f"{NAME}.calibration.npz"
    assert path.stat().st_size <= 1_000_000
    metadata = supernet.metadata
    images = load_calibration_images(path, tuple(metadata["mean"]), tuple(metadata["std"]))
    assert images.shape[1:] == (3, 32, 32)
    assert len(images) >= 100
    subnet = calibrated_subnet(supernet, supernet.space.smallest(), images)
    with torch.no_grad():
        predicted = subnet(images[:100]).argmax(dim=1).numpy()
    # A subnet that lost its statistics answers with one or two classes.
    assert len(np.unique(predicted)) >= 5


def test_card_tells_the_accuracy() -> None:
    card = (WEIGHTS / f"{NAME}.md").read_text(encoding="utf-8")
    for word in (
        "CIFAR-10",
        "smallest",
        "middle",
        "largest",
        "--recipe cifar",
        "10,000 test images",
    ):
        assert word in card
