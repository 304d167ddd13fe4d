"""A tiny data set of images on disk, and a recipe of a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_compile.supernet import functional
from ofa_compile.training import batch_norm, depthwise

LABELS = ("blue", "green", "red")


def write_images(root: Path, per_class: int, size: int, seed: int) -> None:
    """Write noisy images, each class of its own colour."""
    rng = np.random.default_rng(seed)
    for index, label in enumerate(LABELS):
        folder = root / label
        folder.mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 80, (size, size, 3), dtype=np.uint8)
            pixels[..., 2 - index] += 150
            Image.fromarray(pixels).save(folder / f"{number:04}.png")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24x24 images: 20 per class to train on, 6 to test on."""
    root = tmp_path_factory.mktemp("images")
    write_images(root / "train", 20, 24, 0)
    write_images(root / "test", 6, 24, 1)
    return root


@pytest.fixture
def recipe_text() -> str:
    return """
schema_version = 1
batch_size = 8
held_out = 12
learning_rate = 0.02
warmup_steps = 2
momentum = 0.9
weight_decay = 0.0001
label_smoothing = 0.1
max_gradient_norm = 4.0
[[phases]]
name = "largest"
epochs = 0.25
resolutions = [24]
[[phases]]
name = "expand"
epochs = 0.5
resolutions = [24]
elastic = ["kernel_size", "depth", "expand_ratio"]
random_subnets = 1
distillation_ratio = 0.5
sort_channels = true
"""


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread, and leave no depthwise backend behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    functional.set_depthwise_backend(None)


@pytest.fixture
def c_compiler() -> None:
    """Skip where our operators cannot be compiled, which fills the cache: not while collecting."""
    if not (depthwise.is_available() and batch_norm.is_available()):
        pytest.skip("no C compiler")
