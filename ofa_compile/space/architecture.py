"""The value that describes one subnet: what was chosen, without any weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable
from functools import cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from ofa_compile.errors import ArchitectureError, closest_match

_HINT = (
    "Fields are documented in ofa_compile.Architecture; `space.sample(rng)` gives a valid example."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Choices that fix one subnet of a search space.

    Sequences of any kind are accepted and stored as tuples, whole floats as ints, so that equal
    choices give equal values, equal JSON and equal hashes.

    Attributes
    ----------
    space
        Name of the search space.
    resolution
        Height and width of the input image in pixels.
    depths
        Blocks per stage (`ofa_resnet50`: blocks added to the stage's base depth).
    kernel_sizes
        Depthwise kernel size per active block, one inner tuple per stage; empty for ResNets.
    expand_ratios
        Expand ratio per active block, one inner tuple per stage.
    stem_depth
        ResNets only: 2 with the stem's residual convolution, 0 without.
    width_indices
        ResNets only: index into the width multipliers of stem middle, stem and each stage.
    """

    space: str
    resolution: int
    depths: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...] = ()
    expand_ratios: tuple[tuple[float | int, ...], ...]
    stem_depth: int | None = None
    width_indices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.space, str):
            raise _wrong_type(name="space", value=self.space, wanted="a string")
        normal: dict[str, Any] = {
            "resolution": _integer("resolution", self.resolution),
            "depths": tuple(_integer("depths", d) for d in _items("depths", self.depths)),
            "kernel_sizes": tuple(
                tuple(_integer("kernel_sizes", k) for k in _items("kernel_sizes", stage))
                for stage in _items("kernel_sizes", self.kernel_sizes)
            ),
            "expand_ratios": tuple(
                tuple(_number("expand_ratios", e) for e in _items("expand_ratios", stage))
                for stage in _items("expand_ratios", self.expand_ratios)
            ),
            "width_indices": tuple(
                _integer("width_indices", w) for w in _items("width_indices", self.width_indices)
            ),
        }
        if self.stem_depth is not None:
            normal["stem_depth"] = _integer("stem_depth", self.stem_depth)
        for name, value in normal.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; fields the family lacks are left out."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.stem_depth is None:
            del fields["stem_depth"]
        for name in ("kernel_sizes", "width_indices"):
            if not fields[name]:
                del fields[name]
        return fields

    def to_json(self) -> str:
        """Return the canonical JSON text: sorted keys, no spaces, whole numbers as integers."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: Any) -> Architecture:
        """Build an architecture from plain JSON values.

        Raises
        ------
        ArchitectureError
            If a key is unknown or missing, or a value has the wrong type.
        """
        if not isinstance(data, dict):
            message = f"an architecture must be a JSON object, got {type(data).__name__}"
            raise ArchitectureError(message, hint=_HINT)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                near = closest_match(str(key), known)
                suggestion = f"; did you mean {near!r}?" if near else ""
                message = (
                    f"unknown architecture field {key!r}{suggestion} (allowed: {', '.join(known)})"
                )
                raise ArchitectureError(message, hint=_HINT)
        required = ("space", "resolution", "depths", "expand_ratios")
        missing = [name for name in required if name not in data]
        if missing:
            message = f"architecture lacks the field(s) {', '.join(missing)}"
            raise ArchitectureError(message, hint=_HINT)
        return cls(**data)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Parse JSON text, strictly.

        Raises
        ------
        ArchitectureError
            If the text is not JSON, a key is unknown or missing, or a value has the wrong type.
        """
        try:
            data = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as err:
            message = f"architecture is not valid JSON: {err}"
            raise ArchitectureError(message, hint=_HINT) from err
        return cls.from_dict(data)

    @classmethod
    def from_file(cls, path: str | Path) -> Architecture:
        """Read an architecture from a JSON file.

        Raises
        ------
        ArchitectureError
            If the file cannot be read or does not hold an architecture.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as err:
            message = f"cannot read the architecture file {str(path)!r}: {err}"
            raise ArchitectureError(message, hint="Give the path of a JSON file.") from err
        try:
            return cls.from_json(text)
        except ArchitectureError as err:
            message = f"{path}: {err}"
            raise ArchitectureError(message, hint=err.hint) from err

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def short_hash(self) -> str:
        """First 12 digits of `hash`, for file and symbol names."""
        return self.hash[:12]


def _wrong_type(name: str, value: object, wanted: str) -> ArchitectureError:
    return ArchitectureError(f"{name} must be {wanted}, got {value!r}", hint=_HINT)


def _items(name: str, value: object) -> Iterable[Any]:
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise _wrong_type(name, value, "a list")
    return value


def _integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise _wrong_type(name, value, "a whole number")
    return int(value)


def _number(name: str, value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong_type(name, value, "a number")
    number = float(value)
    if not math.isfinite(number):
        raise _wrong_type(name, value, "a finite number")
    return int(number) if number.is_integer() else number
