from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.compiler.codegen import compile_object, flat_function
from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.tvm_api import IRModule, Target, relax, script_of
from ofa_compile.compiler.workload import Add, Pointwise, Workload
from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import load_target

CORE = VectorMachine(8, 16, False)
TARGET = load_target("x86-64").tvm_target


def build(workload: Workload) -> Any:
    kernel = find_kernel(workload)
    assert kernel is not None
    return kernel.build(workload, kernel.configs(workload, CORE)[0], CORE)


def symbols(folder: Path, data: bytes) -> set[tuple[str, str]]:
    (folder / "kernel.o").write_bytes(data)
    done = subprocess.run(
        ["nm", "kernel.o"], cwd=folder, capture_output=True, text=True, check=True
    )
    return {tuple(line.split()[-2:]) for line in done.stdout.splitlines()}  # type: ignore[misc]


def test_object_holds_the_functions_and_needs_nothing(tmp_path: Path) -> None:
    functions = {"first": build(Pointwise(5, 4, 9, "hswish")), "second": build(Add(100))}
    found = symbols(tmp_path, compile_object(functions, TARGET))
    assert {name for kind, name in found if kind == "T"} == {"first", "second"}
    assert not {name for kind, name in found if kind == "U"}


def test_object_is_deterministic() -> None:
    work = Pointwise(5, 4, 9)
    first = compile_object({"kernel": build(work)}, TARGET)
    assert first == compile_object({"kernel": build(work)}, TARGET)


def test_a_function_that_llvm_cannot_take_is_named() -> None:
    broken = build(Add(4)).with_attr("calling_conv", 99)
    target = {"kind": "llvm", "mtriple": "nonsense-unknown-unknown"}
    with pytest.raises(BuildError, match="ofa_broken"):
        compile_object({"ofa_broken": broken}, target)


def legalised(call: Any, *parameters: Any) -> Any:
    """Return the one PrimFunc that TVM makes of a Relax call."""
    block = relax.BlockBuilder()
    with block.function("main", list(parameters)):
        with block.dataflow():
            output = block.emit_output(block.emit(call))
        block.emit_func_output(output)
    with Target("llvm"):
        module: IRModule = relax.transform.LegalizeOps()(block.get())
    (function,) = [f for v, f in module.functions.items() if v.name_hint != "main"]
    return function


def test_intermediate_maps_become_arguments() -> None:
    x = relax.Var("x", relax.TensorType((1, 8, 100, 100), "float32"))
    function = legalised(relax.op.nn.softmax(x, axis=1), x)
    flat, scratch = flat_function(function)
    # Maximum, exponentials and their sum: on the stack, a map of this kind could overflow it.
    assert sorted(scratch) == [40_000, 40_000, 320_000]
    assert len(flat.params) == 2 + len(scratch) + 2
    assert "alloc_buffer" not in script_of(flat)


def test_functions_without_intermediates_have_no_scratch() -> None:
    x = relax.Var("x", relax.TensorType((4, 4), "float32"))
    flat, scratch = flat_function(legalised(relax.op.sigmoid(x), x))
    assert (len(flat.params), scratch) == (4, [])
