"""Reading ONNX files: the model, and what identifies it. Free of TVM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_compile.cache import digest
from ofa_compile.errors import UserInputError

_HINT = "export it again with `ofa-compile export`"
# The field that names a side file; a model without these bytes keeps all weights inside.
_EXTERNAL_DATA_KEY = b"location"


def load_onnx(path: Path) -> Any:
    """Load and check a model, with the weights it keeps in other files.

    Raises
    ------
    UserInputError
        If the file is missing, damaged or not an ONNX model.
    """
    import onnx

    try:
        model = onnx.load(path)
        # By path, so that the weights in side files are found; a model built in memory may
        # exceed the 2 GB of a protobuf.
        onnx.checker.check_model(str(path))
    except (OSError, ValueError, onnx.checker.ValidationError) as err:
        msg = f"{path}: not a readable ONNX model: {err}"
        raise UserInputError(msg, hint=_HINT) from err
    except Exception as err:  # protobuf's DecodeError has no stable import path
        if type(err).__name__ != "DecodeError":
            raise
        msg = f"{path}: not an ONNX model (its protobuf encoding is damaged)"
        raise UserInputError(msg, hint=_HINT) from err
    return model


def onnx_identity(path: Path) -> str:
    """Hash of the model, weights in other files included.

    Raises
    ------
    UserInputError
        If the file cannot be read, or one that it refers to.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as err:
        msg = f"cannot read {path}: {err.strerror}"
        raise UserInputError(msg) from err
    if _EXTERNAL_DATA_KEY not in data:
        return digest(data)
    model = load_onnx(path)
    return digest(data, *(tensor.raw_data for tensor in model.graph.initializer))
