from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ofa_compile.bundle.verify import noise_inputs, num_verification_inputs, verify
from ofa_compile.errors import NumericMismatchError

X = noise_inputs((1, 3, 4, 4), 8)
LOGITS = np.linspace(-5, 20, 80, dtype=np.float32).reshape(8, 10)


def with_error(error: float, row: int = 3) -> NDArray[np.float32]:
    logits = LOGITS.copy()
    logits[row, 2] += error
    return logits


def test_exact_network_passes() -> None:
    result = verify(lambda x: LOGITS, X, LOGITS)
    assert (result.max_abs_error, result.num_inputs, result.relative_error) == (0.0, 8, 0.0)
    assert result.to_dict()["verified"] is True


def test_error_is_relative_to_the_largest_logit() -> None:
    result = verify(lambda x: with_error(0.0019), X, LOGITS)
    assert result.max_abs_error == pytest.approx(0.0019, rel=1e-3)
    assert result.relative_error == pytest.approx(0.0019 / 20, rel=1e-3)
    with pytest.raises(NumericMismatchError, match=r"differs .* by 0\.0021 on input 3 of 8"):
        verify(lambda x: with_error(0.0021), X, LOGITS)
    assert verify(lambda x: with_error(0.0021), X, LOGITS, tolerance=1e-3).tolerance == 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_fail(value: float) -> None:
    with pytest.raises(NumericMismatchError, match=r"the binary gives .* not finite on input 5"):
        verify(lambda x: with_error(value, 5), X, LOGITS)
    with pytest.raises(NumericMismatchError, match=r"the reference gives .* not finite on input 0"):
        verify(lambda x: LOGITS, X, with_error(value, 0))


def test_wrong_shape_fails() -> None:
    with pytest.raises(NumericMismatchError, match=r"gives logits \(8, 9\)"):
        verify(lambda x: LOGITS[:, :9], X, LOGITS)
    with pytest.raises(NumericMismatchError, match="reference has"):
        verify(lambda x: LOGITS[:0], X[:0], LOGITS[:0])


def test_all_zero_reference() -> None:
    zeros = np.zeros_like(LOGITS)
    assert verify(lambda x: zeros, X, zeros).relative_error == 0.0
    with pytest.raises(NumericMismatchError):
        verify(lambda x: zeros + 1e-20, X, zeros)


def test_number_of_inputs() -> None:
    assert num_verification_inputs(224, is_emulated=False) == 8
    assert num_verification_inputs(160, is_emulated=True) == 8
    assert num_verification_inputs(164, is_emulated=True) == 2


def test_noise_repeats() -> None:
    np.testing.assert_array_equal(X, noise_inputs((1, 3, 4, 4), 8))
    assert not np.array_equal(X, noise_inputs((1, 3, 4, 4), 8, seed=1))
