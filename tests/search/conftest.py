from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from ofa_compile.space.mobilenet import MobileNetSpace
from ofa_compile.space.registry import search_space
from ofa_compile.space.search_space import SearchSpace


def make_tiny_space() -> MobileNetSpace:
    """A space of 16,000 architectures: small enough to look at every one."""
    full = search_space("ofa_mbv3_cifar")
    assert isinstance(full, MobileNetSpace)
    return dataclasses.replace(
        full,
        name="tiny",
        resolutions=(24, 32),
        stage_widths=(16, 24, 40),
        stage_strides=(2, 2, 1),
        stage_activations=full.stage_activations[:3],
        stage_use_se=full.stage_use_se[:3],
        depth_choices=((1, 2),) * 3,
        kernel_size_choices=(3, 7),
        expand_ratio_choices=(3, 6),
    )


def every_row(space: SearchSpace) -> np.ndarray:
    """Return the choice indices of every architecture of a small space."""
    choices = [range(len(gene.choices)) for gene in space.genes]
    rows = np.array(list(itertools.product(*choices)), dtype=np.int64)
    return np.unique(space.mark_absent(rows), axis=0)


class ToyAccuracy:
    """More is better with falling returns, and neighbouring genes interact: not separable."""

    def __init__(self, space: SearchSpace, seed: int = 0, ruggedness: float = 0.3) -> None:
        rng = np.random.default_rng(seed)
        self.counts = np.array([len(gene.choices) for gene in space.genes])
        self.gain = rng.uniform(0.2, 1.0, len(self.counts))
        self.pairs = rng.integers(0, len(self.counts), (2, 40))
        self.weights = rng.normal(size=40) * ruggedness

    def predict_indices(self, space: SearchSpace, indices: np.ndarray) -> np.ndarray:
        level = (indices + 1) / self.counts
        smooth = (np.sqrt(level) * self.gain).sum(axis=1)
        first, second = level[:, self.pairs[0]], level[:, self.pairs[1]]
        rugged = (np.sin(5 * first * second) * self.weights).sum(axis=1)
        return 0.5 + 0.02 * (smooth + rugged)

    def predict(self, architectures: object) -> np.ndarray:
        raise AssertionError("the fast way exists")


@pytest.fixture(scope="session")
def tiny_space() -> MobileNetSpace:
    return make_tiny_space()


@pytest.fixture(scope="session")
def all_rows(tiny_space: MobileNetSpace) -> np.ndarray:
    return every_row(tiny_space)


@pytest.fixture(scope="session")
def accuracy(tiny_space: MobileNetSpace) -> ToyAccuracy:
    return ToyAccuracy(tiny_space)


@pytest.fixture(scope="session")
def toy_accuracy() -> type[ToyAccuracy]:
    return ToyAccuracy
