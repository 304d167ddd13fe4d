from __future__ import annotations

import pytest

from ofa_compile import errors

TREE = {
    "OfaCompileError": ((Exception,), 1),
    "UserInputError": ((errors.OfaCompileError,), 2),
    "ConfigError": ((errors.UserInputError, ValueError), 2),
    "TargetSpecError": ((errors.ConfigError,), 2),
    "TargetNotFoundError": ((errors.UserInputError, LookupError), 2),
    "ArchitectureError": ((errors.UserInputError, ValueError), 2),
    "CheckpointError": ((errors.UserInputError, ValueError), 2),
    "ImageError": ((errors.UserInputError, ValueError), 2),
    "DataError": ((errors.UserInputError, ValueError), 2),
    "ArtifactError": ((errors.UserInputError,), 2),
    "MissingDependencyError": ((errors.OfaCompileError, ImportError), 3),
    "DeviceError": ((errors.OfaCompileError,), 4),
    "BoardLostError": ((errors.DeviceError,), 4),
    "DeviceUnavailableError": ((errors.DeviceError,), 4),
    "MeasurementError": ((errors.DeviceError,), 4),
    "CompilationError": ((errors.OfaCompileError,), 5),
    "UnsupportedOperatorError": ((errors.CompilationError,), 5),
    "TuningError": ((errors.CompilationError,), 5),
    "BuildError": ((errors.CompilationError,), 5),
    "NumericMismatchError": ((errors.OfaCompileError,), 6),
    "InfeasibleConstraintError": ((errors.OfaCompileError,), 7),
    "NotFittedError": ((errors.OfaCompileError, ValueError, AttributeError), 1),
}


def classes() -> dict[str, type[errors.OfaCompileError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }


def test_the_tree_is_complete() -> None:
    assert set(classes()) == set(TREE)


@pytest.mark.parametrize("name", TREE)
def test_bases_and_exit_code(name: str) -> None:
    error = classes()[name]
    assert (error.__bases__, error.exit_code) == TREE[name]
    assert name in str(errors.__doc__)


def test_message_and_hint() -> None:
    error = errors.BuildError("no", hint="do that")
    assert (str(error), error.hint) == ("no", "do that")
    assert errors.OfaCompileError("no").hint is None


def test_closest_match() -> None:
    assert errors.closest_match("arm46", ["host", "arm64"]) == "arm64"
    assert errors.closest_match("zzz", ["host", "arm64"]) is None
