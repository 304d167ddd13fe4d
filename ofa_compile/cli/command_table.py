"""Which module holds which command. Only the one that is called gets loaded."""

from __future__ import annotations

import importlib
from types import ModuleType

COMMANDS = (
    "compile",
    "export",
    "search",
    "tune",
    "measure",
    "report",
    "fit-latency",
    "fit-accuracy",
    "train",
    "evaluate",
    "finetune",
    "run",
    "doctor",
    "targets",
    "device",
    "supernet",
    "cache",
)
"""In the order of the help page."""

DEFAULT_COMMAND = "compile"


def load_command(name: str) -> ModuleType:
    """Import the module of a command: it has `EPILOG` and a function, or `app` with several."""
    return importlib.import_module(f"ofa_compile.cli.{name.replace('-', '_')}")
