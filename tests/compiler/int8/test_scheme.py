from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.compiler.int8.scheme import quantisation_of, quantise_weight


def test_bytes_are_within_half_a_step(rng: np.random.Generator) -> None:
    x = rng.uniform(-3, 5, (100, 4)) * [1, 10, 0.1, 1]
    scheme = quantisation_of(x.min(axis=0), x.max(axis=0))
    error = np.abs(scheme.to_floats(scheme.to_bytes(x)) - x)
    assert (error <= scheme.scale * 0.501 + 1e-6).all()
    assert error.max() > scheme.scale.min() / 4


@pytest.mark.parametrize(("low", "high"), [(0.5, 2.0), (-2.0, -0.5), (-0.375, 6.0), (0.0, 0.0)])
def test_zero_is_exact_whatever_the_range(low: float, high: float) -> None:
    scheme = quantisation_of(np.array([low]), np.array([high]))
    assert scheme.to_floats(scheme.to_bytes(np.zeros((1, 1)))) == 0.0
    assert 0 <= scheme.zero_point[0] <= 255


def test_values_outside_the_range_are_clipped() -> None:
    scheme = quantisation_of(np.array([-1.0]), np.array([1.0]))
    assert scheme.to_bytes(np.array([[-9.0], [9.0]])).ravel().tolist() == [0, 255]


def test_a_dead_channel_takes_no_part() -> None:
    scheme = quantisation_of(np.array([0.0, 0.0]), np.array([1.0, 0.0]))
    assert np.isfinite(1 / scheme.scale).all()
    assert scheme.to_bytes(np.zeros((1, 2)))[0, 1] == 0


def test_weights_use_all_steps_of_each_row(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((5, 7, 1, 1)) * np.array([1, 100, 0.01, 1, 0]).reshape(-1, 1, 1, 1)
    rounded = quantise_weight(weight)
    assert np.abs(rounded.values).reshape(5, -1).max(axis=1).tolist() == [127] * 4 + [0]
    restored = rounded.values * rounded.scale.reshape(-1, 1, 1, 1)
    assert (np.abs(restored - weight).reshape(5, -1).max(axis=1) <= rounded.scale / 2 + 1e-9).all()
