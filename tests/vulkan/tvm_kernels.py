"""Kernels for TVM's Vulkan device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ofa_compile.compiler.tvm_api import relax, s_tir, tvm

SIZE = 128


def compile_programs(target: Any) -> dict[str, Any]:
    """Return a kernel for each type, a wide one, one that repeats its work, and a small network."""
    kernels = {dtype: exponentials(SIZE, dtype) for dtype in ("float32", "float16")}
    kernels["wide"] = exponentials(SIZE, num_threads=256)
    kernels["scalar"] = exponentials(SIZE, has_scalar=True)
    compiled = {name: tvm.compile(kernel, target=target) for name, kernel in kernels.items()}
    weight = np.linspace(-1, 1, 32 * 8, dtype=np.float32).reshape(32, 8)
    return {**compiled, "network": small_network(weight, target)}


def small_network(weight: np.ndarray, target: Any) -> Any:
    """Return `gelu(softmax(x @ weight))`, x of shape (4, 32), for the virtual machine."""
    dtype = str(weight.dtype)
    x = relax.Var("x", relax.TensorType((4, 32), dtype))
    block = relax.BlockBuilder()
    with block.function("main", [x]):
        with block.dataflow():
            product = block.emit(relax.op.matmul(x, relax.const(weight)))
            output = block.emit(relax.op.nn.softmax(product, -1))
            output = block.emit_output(relax.op.nn.gelu(output))
        block.emit_func_output(output)
    with target:
        module = relax.transform.LegalizeOps()(block.get())
        module = s_tir.dlight.ApplyDefaultSchedule(s_tir.dlight.gpu.Fallback())(module)
        return tvm.compile(module, target=target)


def exponentials(
    size: int, dtype: str = "float32", *, has_scalar: bool = False, num_threads: int = 64
) -> Any:
    """Return `y = exp(x) + 1`; with a scalar, what it adds is passed."""
    te = tvm.te
    x = te.placeholder((size,), dtype, name="x")
    term = tvm.tirx.Var("term", dtype) if has_scalar else tvm.tirx.const(1, dtype)
    y = te.compute((size,), lambda i: te.exp(x[i]) + term, name="y")
    function = te.create_prim_func([x, term, y] if has_scalar else [x, y])
    schedule = s_tir.Schedule(function)
    (loop,) = schedule.get_loops(schedule.get_sblock("y"))
    outer, inner = schedule.split(loop, [None, num_threads])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    return schedule.mod


def long_sums(num_terms: int) -> Any:
    """Return 4096 sums of exponentials, each of so many terms: work for the device's clock."""
    te = tvm.te
    x = te.placeholder((num_terms,), "float32", name="x")
    k = te.reduce_axis((0, num_terms), name="k")
    y = te.compute((4096,), lambda i: te.sum(te.exp(x[k] - i), axis=k), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    block = schedule.get_sblock("y")
    outer, inner = schedule.split(schedule.get_loops(block)[0], [None, 64])
    schedule.bind(outer, "blockIdx.x")
    schedule.bind(inner, "threadIdx.x")
    return schedule.mod
