"""Every error this package raises on purpose, as one tree.

::

    OfaCompileError                      exit 1
    ├─ UserInputError                    exit 2
    │  ├─ ConfigError (ValueError)
    │  │  └─ TargetSpecError
    │  ├─ TargetNotFoundError (LookupError)
    │  ├─ ArchitectureError (ValueError)
    │  ├─ CheckpointError (ValueError)
    │  ├─ ImageError (ValueError)
    │  ├─ DataError (ValueError)
    │  └─ ArtifactError
    ├─ MissingDependencyError            exit 3
    ├─ DeviceError                       exit 4
    │  ├─ DeviceUnavailableError
    │  ├─ BoardLostError
    │  └─ MeasurementError
    ├─ CompilationError                  exit 5
    │  ├─ UnsupportedOperatorError
    │  ├─ TuningError
    │  └─ BuildError
    ├─ NumericMismatchError              exit 6
    ├─ InfeasibleConstraintError         exit 7
    └─ NotFittedError (ValueError, AttributeError)

A message says what is wrong, the value received and what is allowed; `hint` says what to do next.
Any other exception that reaches the user is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class OfaCompileError(Exception):
    """Base of all errors raised on purpose; `hint` tells the user what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UserInputError(OfaCompileError):
    """An option, file or value from the user cannot be used."""

    exit_code = 2


class ConfigError(UserInputError, ValueError):
    """A configuration file has an unknown key, a wrong type or a value out of range."""


class TargetSpecError(ConfigError):
    """A hardware-target file is malformed."""


class TargetNotFoundError(UserInputError, LookupError):
    """No hardware target has the name that was asked for."""


class ArchitectureError(UserInputError, ValueError):
    """An architecture is malformed or lies outside its search space."""


class CheckpointError(UserInputError, ValueError):
    """A weights file is unreadable, unsafe, or does not fit the supernet."""


class ImageError(UserInputError, ValueError):
    """An image cannot be read."""


class DataError(UserInputError, ValueError):
    """A data set is missing, empty or malformed."""


class ArtifactError(UserInputError):
    """A bundle or data file is missing, of another schema version, or fails its checksum."""


class MissingDependencyError(OfaCompileError, ImportError):
    """A package or system tool that this action needs is not installed."""

    exit_code = 3


class DeviceError(OfaCompileError):
    """Something went wrong on the device that runs the code."""

    exit_code = 4


class DeviceUnavailableError(DeviceError):
    """No device, emulator or driver can run code for this target."""


class BoardLostError(DeviceError):
    """A board that was held stopped answering, or answered nonsense."""


class MeasurementError(DeviceError):
    """A run on the device failed or gave no usable time."""


class CompilationError(OfaCompileError):
    """A network could not be turned into a binary."""

    exit_code = 5


class UnsupportedOperatorError(CompilationError):
    """The network uses an operator that the compiler cannot lower."""


class TuningError(CompilationError):
    """Tuning failed as a whole (single failed trials are recorded, not raised)."""


class BuildError(CompilationError):
    """Code generation or linking failed."""


class NumericMismatchError(OfaCompileError):
    """The compiled network's outputs differ from the reference beyond the tolerance."""

    exit_code = 6


class InfeasibleConstraintError(OfaCompileError):
    """No architecture meets the limits; the message names the best value reachable."""

    exit_code = 7


class NotFittedError(OfaCompileError, ValueError, AttributeError):
    """A predictor was asked to predict before it was fitted or loaded."""


def closest_match(value: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word most like `value`, or None when nothing is near."""
    matches = difflib.get_close_matches(value, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None
