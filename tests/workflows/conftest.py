from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ofa_compile.space import search_space
from ofa_compile.supernet import build_supernet, save_supernet


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a supernet of random weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    supernet = build_supernet(search_space("ofa_mbv3_cifar"), seed=1)
    supernet.metadata.update(
        mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25], labels=list("abcdefghij")
    )
    save_supernet(supernet, path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of ten classes: 4 training images and 2 test images each, of noise."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for label in "abcdefghij":
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
    return folder
