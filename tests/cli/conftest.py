from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ofa_compile.predictors.accuracy import AccuracyPredictor
from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet, save_supernet

SPACE = "ofa_mbv3_cifar"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a supernet of random weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    supernet = build_supernet(search_space(SPACE), seed=1)
    supernet.metadata.update(mean=[0.5] * 3, std=[0.25] * 3, labels=list("abcdefghij"))
    save_supernet(supernet, path)
    return path


@pytest.fixture(scope="session")
def accuracy_predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an accuracy predictor that likes everything large, as a file."""
    space = search_space(SPACE)
    path = tmp_path_factory.mktemp("predictor") / "accuracy.safetensors"
    slope = space.encode([space.largest()])[0] - space.encode([space.smallest()])[0]
    scale = np.array([0.7, 0.01], np.float32)
    AccuracyPredictor(space, {"linear.weight": slope, "scale": scale}).save(path)
    return path


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    """Return the smallest architecture as a file."""
    path = tmp_path / "smallest.json"
    path.write_text(search_space(SPACE).smallest().to_json(), encoding="utf-8")
    return path
