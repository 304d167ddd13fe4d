"""Operators without a kernel of ours on a GPU: a scheduled PrimFunc -> launches and scratch.

TVM's own passes lower the function and split it into kernels and a host function; what the host
would do (which kernel on which buffers, in which order) becomes steps of the plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ofa_compile.cache import digest
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.schedule_search import DesignSpace
from ofa_compile.compiler.tvm_api import (
    AllocBuffer,
    IRModule,
    PrimFunc,
    Target,
    s_tir,
    transform,
    tvm,
)
from ofa_compile.errors import BuildError

if TYPE_CHECKING:
    from ofa_compile.compiler.workload import Generic, Workload

GENERIC_LAUNCHES: dict[str, PrimFunc] = {}
"""`launch_key` -> kernel, lowered, for the code generator of the same process."""

_LIMITS = ("max_num_threads", "max_threads_per_block", "max_shared_memory_per_block")
_FALLBACK = dict.fromkeys(_LIMITS[:2], 128) | {_LIMITS[2]: 16384}


@dataclass(frozen=True)
class Launch:
    """One kernel of an operator.

    Attributes
    ----------
    function
        A device function whose parameters are pointers.
    buffers
        For each of them the buffer it points to: the operator's inputs, its output, then scratch.
    """

    function: PrimFunc
    buffers: tuple[int, ...]


def scheduling_target(tvm_target: Mapping[str, Any]) -> Target:
    """Return the TVM target by which operators are scheduled for a GPU, whatever its kind.

    Its rules leave functions of C and shuffles within a warp out of the code.
    """
    limits = {name: tvm_target.get(name, _FALLBACK[name]) for name in _LIMITS}
    spec = {"kind": "vulkan", **limits, "thread_warp_size": 1}
    return Target(spec, host={"kind": "llvm"})


def schedule_default(function: PrimFunc, tvm_target: Mapping[str, Any]) -> PrimFunc:
    """Give every loop nest of an operator to threads as it stands, as TVM's dlight does."""
    from tvm.s_tir import dlight

    with scheduling_target(tvm_target):
        schedule = dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())
        return schedule(IRModule({"main": function}))["main"]


def split_launches(
    function: PrimFunc, tvm_target: Mapping[str, Any]
) -> tuple[list[Launch], list[int]]:
    """Lower a scheduled operator to its launches, in order.

    Returns
    -------
    The launches, and the size in values of every scratch buffer.

    Raises
    ------
    BuildError
        If TVM cannot lower it, or something of it would run on the host.
    """
    target = scheduling_target(tvm_target)
    prepared = function.with_attrs(
        {"global_symbol": "generic", "target": target, "tirx.noalias": True}
    )
    try:
        with target:
            module = _lowering()(IRModule({"generic": prepared}))
    except Exception as err:  # TVM's errors share no class of their own
        msg = f"TVM cannot lower one of its own operators: {str(err)[:500]}"
        raise BuildError(msg) from err
    return _read_host(module)


def _lowering() -> Any:
    """TVM's pipeline up to the split into host and device; see `tvm.s_tir.pipeline`."""
    t = s_tir.transform
    return tvm.transform.Sequential(
        [
            t.CanonicalizeLoop(),
            t.LowerCrossThreadReduction(),
            t.LowerInitBlock(),
            t.PlanAndUpdateBufferAllocationLocation(),
            t.ConvertBlocksToOpaque(),
            t.LiftThreadBinding(),
            t.CompactBufferAllocation(),
            t.UnifyThreadBinding(),
            t.LowerMatchBuffer(),
            t.StmtSimplify(),
            t.LowerOpaqueBlock(),
            transform.FlattenBuffer(),
            transform.NarrowDataType(32),
            t.LoopPartition(),
            transform.VectorizeLoop(True),
            t.InjectVirtualThread(),
            transform.StorageRewrite(),
            t.HoistIfThenElse(),
            transform.UnrollLoop(),
            t.RenormalizeSplitPattern(),
            transform.StmtSimplify(),
            transform.RemoveNoOp(),
            t.RewriteUnsafeSelect(),
            transform.VerifyMemory(),
            transform.AnnotateEntryFunc(),
            t.ThreadSync("shared"),
            t.LowerThreadAllreduce(),
            transform.SplitHostDevice(),
            transform.ForceNarrowIndexToInt32(),
            transform.StmtSimplify(),
            transform.LowerIntrin(),
        ]
    )


def _read_host(module: IRModule) -> tuple[list[Launch], list[int]]:
    host = module["generic"]
    places = {parameter.__chandle__(): number for number, parameter in enumerate(host.params)}
    scratch: list[int] = []
    launches: list[Launch] = []
    for item in host.body.seq if hasattr(host.body, "seq") else [host.body]:
        kind = type(item).__name__
        if isinstance(item, AllocBuffer):
            places[item.buffer.__chandle__()] = len(host.params) + len(scratch)
            scratch.append(_num_values(item.buffer))
        elif kind == "DeclBuffer":
            places[item.buffer.__chandle__()] = places[_pointed(item.data)]
        elif kind == "Evaluate" and _is_launch(item.value):
            launches.append(_read_launch(module, item.value, places))
        else:
            msg = f"a schedule leaves a {kind} of an operator to the host"
            raise BuildError(msg)
    return launches, scratch


def _is_launch(call: Any) -> bool:
    return getattr(getattr(call, "op", None), "name", "") == "tirx.call_ffi_kernel"


def _read_launch(module: IRModule, call: Any, places: Mapping[int, int]) -> Launch:
    function = module[str(call.args[0].value)]
    pointers = call.args[1 : 1 + len(function.params)]
    if any(type(parameter.ty).__name__ != "PointerType" for parameter in function.params):
        msg = "a kernel of an operator takes scalars"
        raise BuildError(msg)
    return Launch(function, tuple(places[_pointed(pointer)] for pointer in pointers))


def _pointed(pointer: Any) -> int:
    """Return the identity of the buffer whose data a host's expression is."""
    return int((pointer.args[0] if hasattr(pointer, "args") else pointer).__chandle__())


def _num_values(buffer: Any) -> int:
    if str(buffer.dtype) not in ("float32", "int32"):
        msg = f"an operator keeps {buffer.dtype} between its kernels; only float32 is supported"
        raise BuildError(msg)
    return math.prod(int(d) for d in buffer.shape)


def append_launches(
    plan: Plan,
    workload: Generic,
    function: PrimFunc,
    config: dict[str, Any],
    arguments: Sequence[Ref],
    size: int,
    tvm_target: Mapping[str, Any],
) -> Ref:
    """Append a step for every launch of an operator; return where its values are.

    Parameters
    ----------
    plan
        Receives the steps and the buffers.
    workload, config
        What the steps are of; without a trace in the configuration dlight schedules.
    function
        The operator, scheduled by the configuration's trace if there is one.
    arguments, size
        Its inputs, and the number of values that it computes.
    tvm_target
        Limits of the GPU.
    """
    if "trace" not in config:
        function = schedule_default(function, tvm_target)
    launches, scratch = split_launches(function, tvm_target)
    output = plan.new_buffer(size)
    refs = [*arguments, output, *(plan.new_buffer(count) for count in scratch)]
    for number, launch in enumerate(launches):
        GENERIC_LAUNCHES[launch_key(workload, config, number)] = launch.function
        *others, last = (refs[buffer] for buffer in launch.buffers)
        plan.steps.append(Step(workload, config, tuple(others), last, 1, size, launch=number))
    return output


def launch_key(workload: Workload, config: Mapping[str, Any], launch: int) -> str:
    """Identity of one launch of a workload under a configuration."""
    return digest(workload.key, json.dumps(config, sort_keys=True), str(launch))


def gpu_space(tvm_target: Mapping[str, Any]) -> DesignSpace:
    """Return MetaSchedule's space of schedules for a GPU, as far as our text can say it."""
    return DesignSpace("cuda", scheduling_target(tvm_target), _spellable)


def _spellable(rule: Any) -> Any:
    """Leave vectors of indices, and programs of thousands of lines, out of a rule for GPUs."""
    from tvm.s_tir.meta_schedule import schedule_rule as rules

    if isinstance(rule, rules.MultiLevelTiling):
        return rules.MultiLevelTiling(
            structure="SSSRRSRS",
            tile_binds=["blockIdx.x", "vthread.x", "threadIdx.x"],
            max_innermost_factor=16,
            vector_load_lens=[1],
            reuse_read=rules.ReuseType(req="must", levels=[4], scope="shared"),
            reuse_write=rules.ReuseType(req="must", levels=[3], scope="local"),
        )
    if isinstance(rule, rules.ParallelizeVectorizeUnroll):
        return rules.ParallelizeVectorizeUnroll(
            max_jobs_per_core=-1,
            max_vectorize_extent=-1,
            unroll_max_steps=[0, 16, 64],
            unroll_explicit=True,
        )
    return rule
