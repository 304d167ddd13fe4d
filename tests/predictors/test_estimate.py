from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ofa_compile.errors import ArchitectureError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import list_targets, load_target
from ofa_compile.predictors import metrics
from ofa_compile.predictors.estimate import LatencyEstimator
from ofa_compile.space import cost
from ofa_compile.space.registry import search_space, search_spaces

TARGET = load_target("arm64")


@pytest.mark.parametrize("name", search_spaces())
def test_tables_equal_layer_by_layer(name: str) -> None:
    space = search_space(name)
    estimator = LatencyEstimator(TARGET)
    indices = space.sample_indices(np.random.default_rng(0), 10)
    architectures = [space.from_indices(row) for row in indices]
    expected = estimator.estimate(architectures)
    np.testing.assert_allclose(estimator.predict_indices(space, indices), expected, rtol=1e-12)
    np.testing.assert_array_equal(estimator.predict(architectures), expected)


def test_it_says_that_it_estimates() -> None:
    assert LatencyEstimator(TARGET).kind == "estimate"
    assert LatencyEstimator(TARGET).target_fingerprint == TARGET.fingerprint


def test_follows_the_work() -> None:
    space = search_space("ofa_mbv3_d234_e346_k357_w1.0")
    rng = np.random.default_rng(1)
    architectures = [space.sample(rng) for _ in range(60)]
    times = LatencyEstimator(TARGET).estimate(architectures)
    assert metrics.spearman(times, [cost.macs(a) for a in architectures]) > 0.9
    small, large = LatencyEstimator(TARGET).estimate([space.smallest(), space.largest()])
    assert small < times.min()
    assert large > times.max()


def test_a_faster_core_is_faster() -> None:
    core = dataclasses.replace(TARGET.core, frequency_hz=2 * TARGET.core.frequency_hz)
    faster = LatencyEstimator(dataclasses.replace(TARGET, core=core))
    architecture = search_space("ofa_mbv3_cifar").largest()
    slow = LatencyEstimator(TARGET).estimate([architecture])[0]
    assert 0.4 * slow < faster.estimate([architecture])[0] < slow


def test_smaller_values_are_faster() -> None:
    target, space = load_target("cortex-a76"), search_space("ofa_mbv3_d234_e346_k357_w1.0")
    architecture = space.largest(224)
    whole, half, byte = (
        LatencyEstimator(target_in(target, precision)).estimate([architecture])[0]
        for precision in ("fp32", "fp16", "int8")
    )
    assert 0.45 * whole < half < 0.65 * whole
    assert 0.2 * whole < byte < 0.45 * whole
    without = target_in(load_target("cortex-a72"), "int8")  # of no dot products, only the traffic
    whole = LatencyEstimator(load_target("cortex-a72")).estimate([architecture])[0]
    assert 0.7 * whole < LatencyEstimator(without).estimate([architecture])[0] <= whole


def test_any_admissible_resolution_has_an_estimate() -> None:
    space = search_space("ofa_mbv3_d234_e346_k357_w1.2")
    times = LatencyEstimator(TARGET).estimate([space.smallest(r) for r in (224, 228, 260)])
    assert (np.diff(times) > 0).all()


def test_outside_the_space_is_an_error() -> None:
    space = search_space("ofa_mbv3_cifar")
    wrong = dataclasses.replace(space.smallest(), depths=(9, 2, 2, 2, 2))
    with pytest.raises(ArchitectureError, match="depths"):
        LatencyEstimator(TARGET).estimate([wrong])


@pytest.mark.parametrize("name", list_targets())
def test_every_target_gives_plausible_times(name: str) -> None:
    target = load_target(name)
    architecture = search_space("ofa_mbv3_d234_e346_k357_w1.0").smallest(224)
    assert 0.05 < LatencyEstimator(target).estimate([architecture])[0] < 500
