"""Find the emulator that runs a target's executables on this machine."""

from __future__ import annotations

import os
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import about_variables, install_hint, variable_hint, variables


def find_emulator(target: TargetSpec) -> list[str] | None:
    """Return the command that runs the target's executables here.

    Returns
    -------
    None if this machine runs them itself, or the target names no emulator (`is_native` tells
    which); otherwise the command to put before the executable.

    Raises
    ------
    MissingDependencyError
        If the target names an emulator and this machine lacks it.
    """
    if target.is_native or target.emulator is None:
        return None
    return resolve(target.emulator.command, target.name)


def resolve(command: Sequence[str], target: str) -> list[str]:
    """Return an emulator's command as this machine has to call it.

    Parameters
    ----------
    command
        As a target's file has it: a program and its arguments, in which "$NAME" stands for an
        environment variable.
    target
        The target's name, for messages.

    Raises
    ------
    MissingDependencyError
        If the program is not installed, or a variable is not set.
    """
    program, *arguments = command
    path = shutil.which(program)
    if path is None:
        message = f"target '{target}' runs here only in {program}, which is not installed"
        raise MissingDependencyError(message, hint=install_hint(program))
    unset = unset_variables(command)
    if unset:
        message = f"target '{target}' runs here only in {program} ({about_variables(unset)})"
        raise MissingDependencyError(message, hint=variable_hint(unset))
    return [path, *(string.Template(word).safe_substitute(os.environ) for word in arguments)]


def unset_variables(command: Sequence[str]) -> list[str]:
    """Return the environment variables that an emulator's command names and that are not set."""
    named = dict.fromkeys(name for word in command for name in variables(word))
    return [name for name in named if not os.environ.get(name)]


def shown(command: Sequence[str]) -> str:
    """Return an emulator's command as reports name it: as in the target's file, without folders."""
    program, *arguments = command
    return " ".join([Path(program).name, *arguments])
