"""Kernels for TVM's Vulkan device."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.tvm_api import s_tir, tvm


def exponentials(size: int, dtype: str = "float32", *, has_scalar: bool = False) -> Any:
    """Return `y = exp(x) + 1`, 64 threads a workgroup; with a scalar, what it adds is passed."""
    te = tvm.te
    x = te.placeholder((size,), dtype, name="x")
    term = tvm.tirx.Var("term", dtype) if has_scalar else tvm.tirx.const(1, dtype)
    y = te.compute((size,), lambda i: te.exp(x[i]) + term, name="y")
    function = te.create_prim_func([x, term, y] if has_scalar else [x, y])
    schedule = s_tir.Schedule(function)
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    outer, inner = schedule.split(loop, [None, 64])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    return schedule.mod
