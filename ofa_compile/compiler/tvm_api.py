"""Every name we use from TVM, imported in one place.

TVM moves its modules between releases; a new version is adopted by editing this file.
Nothing outside `compiler` and `kernels` may import TVM; who needs it finds it here.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import tvm
from tvm import relax, s_tir
from tvm.ir import IRModule
from tvm.ir.utils import derived_object
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import meta_schedule
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx import (
    AllocBuffer,
    Broadcast,
    BufferStore,
    FloatImm,
    IntImm,
    PrimFunc,
    Ramp,
    Select,
    Shuffle,
    const,
    transform,
)
from tvm.tirx.script.builder import ir as builder

from ofa_compile.errors import ConfigError

_INTRINSICS = "tvm.s_tir.tensor_intrin"
TVM_VERSION: str = tvm.__version__


def script_of(function: PrimFunc) -> str:
    """Return the canonical text of a PrimFunc."""
    return str(function.script())


def limit_intrinsics(*families: str) -> None:
    """Have TVM know the instructions of these families of processors, and of no others.

    It parses those of all of them for twenty seconds when it first tunes or builds a candidate.
    Does nothing where that has happened. A candidate that uses one can be built anywhere.

    Parameters
    ----------
    families
        Of those that the rules of the target use: such as "x86" where it has VNNI, or "arm_cpu".

    Raises
    ------
    ConfigError
        If there is no such family.
    """
    folder = Path(tvm.__file__).parent / "s_tir" / "tensor_intrin"
    known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    unknown = sorted(set(families) - set(known))
    if unknown:
        msg = f"TVM has no intrinsics of {', '.join(unknown)}; it has those of {', '.join(known)}"
        raise ConfigError(msg)
    stand_in = types.ModuleType(_INTRINSICS)
    stand_in.__path__ = [str(folder)]
    sys.modules.setdefault(_INTRINSICS, stand_in)
    for family in families:
        importlib.import_module(f"{_INTRINSICS}.{family}")


__all__ = [
    "TVM_VERSION",
    "AllocBuffer",
    "Broadcast",
    "BufferStore",
    "FloatImm",
    "IntImm",
    "IRBuilder",
    "IRModule",
    "PrimFunc",
    "Ramp",
    "Select",
    "Shuffle",
    "Target",
    "builder",
    "const",
    "derived_object",
    "from_onnx",
    "limit_intrinsics",
    "meta_schedule",
    "relax",
    "s_tir",
    "script_of",
    "transform",
    "tvm",
]
