from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.errors import ConfigError
from ofa_compile.search.constraints import Limits, format_figure, option_name


def test_violation_is_relative_and_adds_up() -> None:
    limits = Limits(max_latency_ms=10, max_macs=1000)
    figures = {"latency_ms": np.array([5.0, 15.0, 20.0]), "macs": np.array([1000.0, 900.0, 1500.0])}
    np.testing.assert_allclose(limits.violation(figures), [0.0, 0.5, 1.5])
    assert limits.active == {"latency_ms": 10.0, "macs": 1000.0}


def test_no_limits_are_never_violated() -> None:
    assert Limits().active == {}
    assert Limits().violation({"accuracy": np.zeros(3)}).tolist() == [0.0] * 3


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_limits_must_be_positive(value: float) -> None:
    with pytest.raises(ConfigError, match="max_size_bytes must be a positive number"):
        Limits(max_size_bytes=value)


def test_names_and_units_for_messages() -> None:
    assert option_name("activation_bytes") == "max_activation_bytes"
    assert format_figure("latency_ms", 1.23456) == "1.235 ms"
    assert format_figure("size_bytes", 12345.0) == "12,345 bytes"
    assert format_figure("macs", 12345.0) == "12,345 macs"
