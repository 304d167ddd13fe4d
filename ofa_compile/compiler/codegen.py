"""PrimFunc -> object file with a plain C symbol.

TVM's default pipeline wraps each function in its packed calling convention, whose argument checks
cost about a microsecond a call and need TVM's run time. We lower the body ourselves and hand it
to LLVM as it is: a C function over raw pointers, with nothing to link against.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from ofa_compile.compiler.tvm_api import (
    AllocBuffer,
    IRBuilder,
    IRModule,
    PrimFunc,
    Target,
    builder,
    s_tir,
    transform,
    tvm,
)
from ofa_compile.errors import BuildError


def _lowering() -> Any:
    # No FlattenBuffer: our buffers are flat already, and its simplifier took four fifths of the
    # time to compile a pointwise kernel, for the same machine code.
    return tvm.transform.Sequential(
        [
            transform.NarrowDataType(32),
            transform.VectorizeLoop(True),
            transform.UnrollLoop(),
            transform.StmtSimplify(),
            transform.RemoveNoOp(),
            transform.LowerIntrin(),
        ]
    )


def lower_kernel(name: str, function: PrimFunc, target: Target) -> PrimFunc:
    """Lower one of our kernels to what a generator of text can spell: no vector loops, no floor.

    Raises
    ------
    BuildError
        If TVM refuses it.
    """
    attributes = {"global_symbol": name, "tirx.noalias": True, "target": target}
    try:
        with target:
            return _lowering()(IRModule({name: function.with_attrs(attributes)}))[name]
    except Exception as err:
        msg = f"TVM cannot lower the kernel {name}: {err}"
        raise BuildError(msg, hint="this is a bug in a kernel; please report it") from err


def make_module(functions: dict[str, PrimFunc], target: Target) -> Any:
    """Lower and compile PrimFuncs into one LLVM module; keys are the C symbols."""
    prepared = {
        symbol: function.with_attrs(
            {"global_symbol": symbol, "tirx.noalias": True, "target": target}
        )
        for symbol, function in functions.items()
    }
    try:
        with target:
            lowered = _lowering()(IRModule(prepared))
            return tvm.get_global_func("target.build.llvm")(lowered, target)
    except Exception as err:
        names = ", ".join(functions)
        msg = f"LLVM code generation failed for {names}: {err}"
        raise BuildError(msg, hint="this is a bug in a kernel; please report it") from err


def compile_object(functions: dict[str, PrimFunc], tvm_target: dict[str, Any]) -> bytes:
    """Compile PrimFuncs to one relocatable object.

    Parameters
    ----------
    functions
        C symbol -> PrimFunc whose parameters are pointers and int32 scalars.
    tvm_target
        The target in TVM's dictionary form.

    Returns
    -------
    The bytes of an ELF relocatable object.

    Raises
    ------
    BuildError
        If lowering or LLVM fails.
    """
    module = make_module(functions, Target(tvm_target))
    with tempfile.TemporaryDirectory(prefix="ofa-codegen-") as folder:
        path = Path(folder) / "kernel.o"
        module.write_to_file(str(path), "o")
        return path.read_bytes()


def flat_function(function: PrimFunc) -> tuple[PrimFunc, list[int]]:
    """Lower a PrimFunc of TVM's own making to the calling convention of our kernels.

    Buffers become raw pointers, and the range of tiles is accepted and ignored: such a function
    is one tile. What it allocates for intermediate results becomes pointers too, between the
    inputs and the output: on the stack, a large map would overflow it.

    Returns
    -------
    The function, and the size in bytes of each scratch buffer, in the order of its parameters.

    Raises
    ------
    BuildError
        If TVM cannot lower it.
    """
    target = Target("llvm")
    passes = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
        transform.FlattenBuffer(),
    ]
    prepared = function.with_attrs({"global_symbol": "generic", "target": target})
    try:
        with target:
            lowered = tvm.transform.Sequential(passes)(IRModule({"generic": prepared}))["generic"]
    except Exception as err:
        msg = f"TVM cannot lower one of its own operators: {err}"
        raise BuildError(msg) from err
    statements = list(lowered.body.seq) if hasattr(lowered.body, "seq") else [lowered.body]
    scratch = [item.buffer for item in statements if isinstance(item, AllocBuffer)]
    *inputs, output = lowered.params
    with IRBuilder() as ir:
        with builder.prim_func():
            builder.func_name("kernel")
            buffers = [*inputs, *scratch, output]
            pointers = [
                builder.arg(f"argument_{number}", builder.ptr(str(buffer.dtype)))
                for number, buffer in enumerate(buffers)
            ]
            builder.arg("begin", builder.int32())
            builder.arg("end", builder.int32())
            for buffer, pointer in zip(buffers, pointers, strict=True):
                builder.add_to_parent(tvm.tirx.DeclBuffer(buffer, data=pointer))
            for item in statements:
                if not isinstance(item, AllocBuffer):
                    builder.add_to_parent(item)
        return ir.get(), [_num_bytes(buffer) for buffer in scratch]


def _num_bytes(buffer: Any) -> int:
    bits = int(tvm.DataType(str(buffer.dtype)).bits)
    return math.prod(int(d) for d in buffer.shape) * -(-bits // 8)
