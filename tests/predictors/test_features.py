from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.predictors.features import FEATURES, LatencyFeatures, chunks, layer_features
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space, search_spaces


@pytest.mark.parametrize("name", search_spaces())
def test_totals_are_sums_over_layers(name: str) -> None:
    space = search_space(name)
    indices = space.sample_indices(np.random.default_rng(0), 8)
    batch = LatencyFeatures(space).batch(indices)
    for row, totals in zip(indices, batch.totals, strict=True):
        layers = space.layers(space.from_indices(row))
        np.testing.assert_allclose(totals, sum(layer_features(layer) for layer in layers))


def test_features_mean_what_their_names_say() -> None:
    space = search_space("ofa_mbv3_cifar")
    architecture = space.largest()
    batch = LatencyFeatures(space).batch(space.indices([architecture]))
    figures = dict(zip(FEATURES, batch.totals[0], strict=True))
    layers = space.layers(architecture)
    macs = sum(figures[name] for name in FEATURES if name.endswith("_macs"))
    squeeze = sum(layer.macs for layer in layers if layer.kind == "squeeze_excite") / 1e6
    assert macs + squeeze == pytest.approx(cost.macs(architecture) / 1e6)
    assert figures["weights"] * 4e6 == pytest.approx(cost.weight_bytes(architecture))
    assert figures["num_layers"] == len(layers)
    assert batch.shape[0].tolist() == [0.32, 20.0]


def test_totals_alone_equal_totals_with_slots() -> None:
    space = search_space("ofa_resnet50")
    indices = space.sample_indices(np.random.default_rng(0), 30)
    features = LatencyFeatures(space)
    alone, full = features.batch(indices, with_slots=False), features.batch(indices)
    np.testing.assert_allclose(alone.summary, full.summary)
    assert alone.per_slot.shape == (30, 0)
    assert full.per_slot.shape == (30, features.num_slots * len(FEATURES))


def test_chunks_cover_everything_once() -> None:
    indices = np.arange(50).reshape(25, 2)
    np.testing.assert_array_equal(np.concatenate(list(chunks(indices, 4))), indices)
