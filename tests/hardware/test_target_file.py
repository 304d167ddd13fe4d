from __future__ import annotations

import tomllib
from typing import Any

import pytest

from ofa_compile.errors import TargetSpecError
from ofa_compile.hardware.target_file import check_key, render_target, set_values, toml_value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.4e9, "1.4e9"),
        (2.0e9, "2.0e9"),
        (0.25, "0.25"),
        (4.0, "4.0"),
        (1e-3, "0.001"),
        (123456789.0, "1.23457e8"),
        (32768, "32768"),
        (True, "true"),
        ('a "b"', '"a \\"b\\""'),
        (("-cpu", "max"), '["-cpu", "max"]'),
    ],
)
def test_values(value: Any, text: str) -> None:
    assert toml_value(value) == text
    read = tomllib.loads(f"v = {text}")["v"]
    if isinstance(value, float):
        assert read == pytest.approx(value, rel=1e-5)
    else:
        assert read == (list(value) if isinstance(value, tuple) else value)


def test_render_says_where_values_come_from() -> None:
    values = {"schema_version": 1, "core": {"cores": 4, "l1_bytes": 32768}}
    text = render_target(values, base="arm64", file="x.toml", inherited=frozenset({"core.cores"}))
    assert "cores = 4  # as arm64\n" in text
    assert "l1_bytes = 32768  # data cache of one core\n" in text
    assert tomllib.loads(text) == values


TEXT = """\
schema_version = 1

[core]  # facts
cores = 4  # as arm64
l1_bytes = 1

# the board
[runner]
kind = "rpc"
"""


def test_set_values_keeps_the_rest() -> None:
    values = {"core.cores": 2, "core.l2_bytes": 3, "tvm_target.num-cores": 2}
    text = set_values(TEXT, values, "read here")
    assert tomllib.loads(text) == {
        "schema_version": 1,
        "core": {"cores": 2, "l1_bytes": 1, "l2_bytes": 3},
        "runner": {"kind": "rpc"},
        "tvm_target": {"num-cores": 2},
    }
    assert "# the board\n[runner]" in text
    assert "cores = 2  # cores; read here\n" in text
    assert set_values(text, values, "read here") == text


@pytest.mark.parametrize("key", ["cores", "core.", "core.a.b", "core cores", ""])
def test_keys(key: str) -> None:
    with pytest.raises(TargetSpecError, match=r"no key of a target's file"):
        check_key(key)
    check_key("core.cores")
    check_key("description")
