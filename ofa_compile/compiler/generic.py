"""Operators without a kernel of ours: TVM's own legalisation, one step per PrimFunc.

Correct for anything Relax can import, and slow until tuned: it exists so that a foreign network
compiles.
Maps are channels-first here, as ONNX has them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ofa_compile.compiler.codegen import flat_function
from ofa_compile.compiler.generic_schedules import apply_trace
from ofa_compile.compiler.graph import Node
from ofa_compile.compiler.plan import Ref, Step
from ofa_compile.compiler.tvm_api import IRModule, PrimFunc, Target, relax, script_of
from ofa_compile.compiler.workload import Generic
from ofa_compile.errors import BuildError, UnsupportedOperatorError

if TYPE_CHECKING:
    from ofa_compile.compiler.lower import Lowering

logger = logging.getLogger(__name__)

GENERIC_FUNCTIONS: dict[str, PrimFunc] = {}
"""Workload key -> its flattened function, for the code generator of the same process."""


AppendSteps = Callable[["Lowering", Generic, PrimFunc, dict[str, Any], list[Ref], int], Ref]
"""Appends the steps of a scheduled function on its arguments; returns where its values are."""


def lower_generic(lowering: Lowering, node: Node, append: AppendSteps | None = None) -> None:
    """Append the steps that compute `node`.

    Parameters
    ----------
    lowering, node
        What to lower, into which plan.
    append
        Turns a function into steps; for a CPU if None.

    Raises
    ------
    UnsupportedOperatorError
        If Relax has no legalisation for the operator, or it works on other types than float32.
    """
    append = append or _append_call
    if "function" in node.attrs:
        arguments = [lowering.read(value, "nchw") for value in node.inputs]
        function = node.attrs["function"]
        result = _append(lowering, node.op, function, arguments, node.output.shape, append)
        lowering.put(node.output, result, "nchw")
        return
    call = node.attrs.get("relax_call")
    if call is None:
        call = _rebuild(node)
    if call is None:
        msg = f"operator '{node.op}' is not supported"
        raise UnsupportedOperatorError(msg)
    module, parameters = _legalise(node, call)
    refs: dict[Any, Any] = {
        parameter: lowering.read(value, "nchw")
        for parameter, value in zip(module["main"].params, parameters, strict=True)
    }

    def resolve(expression: Any) -> Ref:
        if expression in refs:
            return refs[expression]  # type: ignore[no-any-return]
        return lowering.plan.new_constant(expression.value.numpy())

    for block in module["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Var):
                refs[binding.var] = refs[value]
                continue
            function = module[value.args[0]]
            shape = [int(d) for d in binding.var.ty.shape.values]
            arguments = [resolve(argument) for argument in value.args[1].fields]
            refs[binding.var] = _append(lowering, node.op, function, arguments, shape, append)
    result = refs[module["main"].body.body]
    lowering.put(node.output, result, "nchw")


def _append(
    lowering: Lowering,
    op: str,
    function: PrimFunc,
    arguments: list[Ref],
    shape: Sequence[int],
    append: AppendSteps,
) -> Ref:
    _check_float32(op, function)
    workload = Generic(op, script_of(function))
    config = dict(lowering.choose_config(workload) or {})
    function = _scheduled(function, config)
    return append(lowering, workload, function, config, arguments, math.prod(shape))


def _append_call(
    lowering: Lowering,
    workload: Generic,
    function: PrimFunc,
    config: dict[str, Any],
    arguments: list[Ref],
    size: int,
) -> Ref:
    """Append one call of a function for a CPU."""
    GENERIC_FUNCTIONS[workload.key], scratch_bytes = flat_function(function)
    scratch = [lowering.plan.new_buffer(-(-num_bytes // 4)) for num_bytes in scratch_bytes]
    output = lowering.plan.new_buffer(size)
    lowering.plan.steps.append(Step(workload, config, (*arguments, *scratch), output, 1, size))
    return output


def _scheduled(function: PrimFunc, config: dict[str, Any]) -> PrimFunc:
    """Apply a tuned schedule; one that no longer fits gives way to TVM's plain loops."""
    if "trace" not in config:
        return function
    try:
        return apply_trace(function, config["trace"])
    except BuildError as err:
        logger.warning("%s", err)
        config.clear()
        return function


def _legalise(node: Node, call: Any) -> tuple[IRModule, list[Any]]:
    """Wrap one Relax call in a function of its own and lower it to PrimFuncs."""
    values = iter(node.inputs)
    parameters: list[Any] = []
    kept: list[Any] = []

    def rewrite(argument: Any) -> Any:
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([rewrite(item) for item in argument.fields])
        if not _is_tensor(argument):
            return argument
        value = next(values)
        if value.data is not None:
            return relax.const(value.data)
        parameter = relax.Var(f"x{len(parameters)}", relax.TensorType(value.shape, "float32"))
        parameters.append(parameter)
        kept.append(value)
        return parameter

    arguments = [rewrite(argument) for argument in call.args]
    block = relax.BlockBuilder()
    with block.function("main", parameters):
        with block.dataflow():
            result = block.emit(relax.Call(call.op, arguments, call.attrs, call.ty_args))
            output = block.emit_output(result)
        block.emit_func_output(output)
    with Target("llvm"):
        module = relax.transform.LegalizeOps()(block.get())
    for binding in (b for part in module["main"].body.blocks for b in part.bindings):
        is_tir = getattr(getattr(binding.value, "op", None), "name", "") == "relax.call_tir"
        if not is_tir and not isinstance(binding.value, relax.Var):
            msg = f"operator '{node.op}' has no lowering in TVM"
            raise UnsupportedOperatorError(msg)
    return module, kept


def _is_tensor(argument: Any) -> bool:
    return hasattr(argument, "ty") and isinstance(argument.ty, relax.TensorType)


def _rebuild(node: Node) -> Any:
    """Spell a node that a pass made (multiply, add) as a Relax call again."""
    functions = {"multiply": relax.op.multiply, "add": relax.op.add}
    if node.op not in functions:
        return None
    operands = [
        relax.const(v.data)
        if v.data is not None
        else relax.Var("x", relax.TensorType(v.shape, "float32"))
        for v in node.inputs
    ]
    return functions[node.op](*operands)


def _check_float32(op: str, function: PrimFunc) -> None:
    types = {str(buffer.dtype) for buffer in function.params}
    if types != {"float32"}:
        msg = f"operator '{op}' works on {', '.join(sorted(types))}; only float32 is supported"
        raise UnsupportedOperatorError(msg)
