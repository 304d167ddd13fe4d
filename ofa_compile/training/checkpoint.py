"""Training checkpoints: written atomically, read without running code from the file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from ofa_compile.atomic_file import replacing
from ofa_compile.errors import CheckpointError

__all__ = ["load_checkpoint", "save_checkpoint"]

_SCHEMA_VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` so that `path` holds either the old or the new checkpoint, whole.

    Parameters
    ----------
    path
        File to write.
    state
        Tensors, numbers, texts, and dicts and lists of them.
    """
    with replacing(path) as staging, staging.open("wb") as stream:
        torch.save({"schema_version": _SCHEMA_VERSION, **state}, stream)
        stream.flush()
        os.fsync(stream.fileno())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint.

    Raises
    ------
    CheckpointError
        If the file is no training checkpoint of this version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as err:
        message = f"cannot read the training checkpoint {path}: {err}"
        raise CheckpointError(message, hint="Delete it to start again.") from err
    if not isinstance(state, dict) or state.get("schema_version") != _SCHEMA_VERSION:
        message = f"{path} is not a training checkpoint of schema version {_SCHEMA_VERSION}"
        raise CheckpointError(message, hint="Delete it to start again.")
    return state
