"""Read TOML tables into frozen dataclasses, with closed keys and checked types and ranges.

The dataclass is the schema: its annotations give the types, its defaults the optional keys, and
`limited` / `one_of` the admissible values. Every message names the file and the dotted key.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ofa_compile.errors import TargetSpecError, closest_match

_T = TypeVar("_T")

_TYPE_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def limited(low: float, high: float, **kwargs: Any) -> Any:
    """Declare a number field whose value must lie in [low, high]."""
    return dataclasses.field(metadata={"low": low, "high": high}, **kwargs)


def one_of(*choices: str, **kwargs: Any) -> Any:
    """Declare a string field with a closed set of values."""
    return dataclasses.field(metadata={"choices": choices}, **kwargs)


def read_toml(path: Path) -> dict[str, Any]:
    """Parse one TOML file; unreadable or malformed files become `TargetSpecError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        message = f"{path}: cannot be read: {err.strerror or err}"
        raise TargetSpecError(message) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        message = f"{path}: is not valid TOML: {err}"
        raise TargetSpecError(message, hint="TOML's grammar is described on toml.io") from err


def check_keys(table: Mapping[str, Any], allowed: Sequence[str], *, file: str, prefix: str) -> None:
    """Refuse keys outside `allowed`, proposing the nearest one."""
    for key in table:
        if key in allowed:
            continue
        near = closest_match(key, allowed)
        message = f"{file}: unknown key '{prefix}{key}'; allowed are {', '.join(allowed)}"
        raise TargetSpecError(message, hint=f"did you mean '{prefix}{near}'?" if near else None)


def read_table(cls: type[_T], table: Any, *, file: str, key: str) -> _T:
    """Build the dataclass `cls` from the TOML table found at `key`."""
    if not isinstance(table, Mapping):
        message = f"{file}: '{key}' must be a table, got {table!r}"
        raise TargetSpecError(message)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    check_keys(table, tuple(fields), file=file, prefix=f"{key}.")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _checked(
                table[name], hints[name], field.metadata, f"{file}: '{key}.{name}'"
            )
        elif _is_required(field):
            message = f"{file}: missing key '{key}.{name}' ({_describe(hints[name])})"
            raise TargetSpecError(message)
    return cls(**values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _describe(hint: Any) -> str:
    return _TYPE_WORDS.get(hint, "a list of strings")


def _checked(value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    """Check one value's type, range and choices."""
    if hint in _TYPE_WORDS:
        accepted = (int, float) if hint is float else (hint,)
        # bool is a subclass of int, yet `repeat = true` is a mistake.
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            message = f"{where} must be {_describe(hint)}, got {value!r}"
            raise TargetSpecError(message)
        value = hint(value)
    elif isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        value = tuple(value)
    else:
        message = f"{where} must be a list of non-empty strings, got {value!r}"
        raise TargetSpecError(message)
    _check_limits(value, limits, where)
    return value


def _check_limits(value: Any, limits: Mapping[str, Any], where: str) -> None:
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        near = closest_match(value, choices)
        message = f"{where} is {value!r}; allowed are {', '.join(choices)}"
        raise TargetSpecError(message, hint=f"did you mean '{near}'?" if near else None)
    if "low" in limits and not limits["low"] <= value <= limits["high"]:
        low, high = limits["low"], limits["high"]
        message = f"{where} is {value!r}; allowed is {low:g} to {high:g}"
        raise TargetSpecError(message)
