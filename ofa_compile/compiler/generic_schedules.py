"""Schedules of operators without a kernel of ours: TVM's traces, kept in JSON.

They come from MetaSchedule (`schedule_search`).
"""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.tvm_api import PrimFunc, s_tir, tvm
from ofa_compile.errors import BuildError

Trace = list[Any]


def parse_function(text: str) -> PrimFunc:
    """Read a PrimFunc back from `script_of`'s text (of our own making)."""
    return tvm.script.from_source(text)


def apply_trace(function: PrimFunc, trace: Trace) -> PrimFunc:
    """Schedule a function as a trace says.

    Raises
    ------
    BuildError
        If the trace is not one of this function.
    """
    (scheduled,) = traced_schedule(function, trace).mod.functions.values()
    return scheduled


def traced_schedule(function: PrimFunc, trace: Trace) -> Any:
    """Return TVM's schedule of a function after the steps of a trace; raises as `apply_trace`."""
    from tvm.s_tir.schedule import Trace as TvmTrace

    schedule = s_tir.Schedule(function)
    try:
        TvmTrace.apply_json_to_schedule(trace, schedule)
    except Exception as err:  # TVM's errors share no class of their own
        msg = f"a tuned schedule does not fit its operator: {str(err)[:200]}"
        raise BuildError(msg, hint="tune again with this version") from err
    return schedule


def plain_trace(trace: Any) -> Trace:
    """Turn TVM's trace into JSON values."""
    return plain_values(trace.as_json())  # type: ignore[no-any-return]


def plain_values(value: Any) -> Any:
    """Turn TVM's arrays, integers and texts into Python's."""
    if isinstance(value, bool | int | float | str) or value is None:
        return str(value) if isinstance(value, str) else value
    if hasattr(value, "value"):
        return value.value
    if hasattr(value, "items"):
        return {str(key): plain_values(item) for key, item in value.items()}
    return [plain_values(item) for item in value]
