"""Every name we use from TVM, imported in one place.

TVM moves its modules between releases; a new version is adopted by editing this file.
Nothing outside `compiler`, `measurement` and `kernels` may import TVM, and those import it here.
"""

from __future__ import annotations

import tvm
from tvm import relax, s_tir
from tvm.ir import IRModule
from tvm.relax.frontend.onnx import from_onnx
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

TVM_VERSION: str = tvm.__version__


def script_of(function: PrimFunc) -> str:
    """Return the canonical text of a PrimFunc."""
    return str(function.script())


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
    "from_onnx",
    "relax",
    "s_tir",
    "script_of",
    "transform",
    "tvm",
]
