from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.errors import TargetSpecError
from ofa_compile.hardware.toml_tables import limited, one_of, read_table, read_toml


@dataclass(frozen=True, kw_only=True)
class Sample:
    size: int = limited(1, 8)
    rate: float = limited(0.5, 2.0, default=1.0)
    kind: str = one_of("local", "rpc", default="local")
    names: tuple[str, ...] = ()
    is_fast: bool = False


def read(table: Any) -> Sample:
    return read_table(Sample, table, file="t.toml", key="sample")


def test_defaults_and_conversions() -> None:
    assert read({"size": 3}) == Sample(size=3)
    full = read({"size": 8, "rate": 2, "kind": "rpc", "names": ["a", "b"], "is_fast": True})
    assert full == Sample(size=8, rate=2.0, kind="rpc", names=("a", "b"), is_fast=True)
    assert isinstance(full.rate, float)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, r"t\.toml: missing key 'sample\.size' \(an integer\)"),
        ({"size": "3"}, r"'sample\.size' must be an integer, got '3'"),
        ({"size": True}, r"'sample\.size' must be an integer, got True"),
        ({"size": 1.5}, r"must be an integer, got 1\.5"),
        ({"size": 9}, r"'sample\.size' is 9; allowed is 1 to 8"),
        ({"size": 1, "rate": "x"}, r"'sample\.rate' must be a number"),
        ({"size": 1, "rate": float("nan")}, r"'sample\.rate' is nan; allowed is 0\.5 to 2"),
        ({"size": 1, "kind": "lokal"}, r"'sample\.kind' is 'lokal'; allowed are local, rpc"),
        ({"size": 1, "names": "a"}, r"'sample\.names' must be a list of non-empty strings"),
        ({"size": 1, "names": ["a", ""]}, r"must be a list of non-empty strings"),
        ({"size": 1, "is_fast": 1}, r"'sample\.is_fast' must be true or false, got 1"),
        ({"size": 1, "sise": 2}, r"unknown key 'sample\.sise'; allowed are size, rate, kind"),
        ([], r"'sample' must be a table, got \[\]"),
    ],
)
def test_refusals_name_file_key_value_and_what_is_allowed(table: Any, words: str) -> None:
    with pytest.raises(TargetSpecError, match=words) as caught:
        read(table)
    assert "t.toml" in str(caught.value)


def test_near_misses_are_proposed() -> None:
    with pytest.raises(TargetSpecError) as caught:
        read({"size": 1, "raet": 1.0})
    assert caught.value.hint == "did you mean 'sample.rate'?"
    with pytest.raises(TargetSpecError) as caught:
        read({"size": 1, "kind": "lokal"})
    assert caught.value.hint == "did you mean 'local'?"


def test_malformed_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("a = 1\nb = = 2", encoding="utf-8")
    with pytest.raises(TargetSpecError, match=r"bad\.toml: is not valid TOML: .*line 2"):
        read_toml(path)
    path.write_bytes(b"a = \xff")
    with pytest.raises(TargetSpecError, match=r"bad\.toml: is not valid TOML"):
        read_toml(path)
    with pytest.raises(TargetSpecError, match=r"none\.toml: cannot be read: No such file"):
        read_toml(tmp_path / "none.toml")
