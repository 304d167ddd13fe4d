"""Graph -> plan in float16: maps, weights and sums are halves, input and output stay float32.

A vector holds eight halves, so that a multiply-add does twice the work. Sums over whole maps are
float32 (`kernels.global_pool`); operators without a kernel of ours run in float32 between casts.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.generic import lower_generic
from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.compiler.kernel_registry import Config, VectorMachine
from ofa_compile.compiler.lower import ChooseConfig, Lowering
from ofa_compile.compiler.plan import Plan, Ref
from ofa_compile.compiler.workload import Cast, Workload
from ofa_compile.errors import CompilationError

_LARGEST = float(np.finfo(np.float16).max)


def lower_fp16(graph: Graph, machine: VectorMachine, choose_config: ChooseConfig) -> Plan:
    """Turn a fused graph into a plan that computes in float16.

    Raises
    ------
    CompilationError
        If a weight is beyond float16's range, or an operation has no lowering.
    """
    return HalfLowering(graph, machine, choose_config).run()


class HalfLowering(Lowering):
    """Lowers as in float32, to buffers and constants of halves."""

    value_bytes = 2

    def __init__(self, graph: Graph, machine: VectorMachine, choose_config: ChooseConfig) -> None:
        super().__init__(graph, machine, choose_config)
        self.put(graph.input, self.cast(Ref("input"), graph.input.size, "float16"), "nchw")

    def run(self) -> Plan:
        """Lower every node, and give the output as float32."""
        plan = super().run()
        plan.output = self.cast(plan.output, self.graph.output.size, "float32")
        return plan

    def constant(self, data: NDArray[Any]) -> Ref:
        """Keep a constant as halves."""
        largest = float(np.abs(data).max(initial=0.0))
        if not largest <= _LARGEST:
            msg = f"a weight of {largest:g} is beyond float16, whose largest number is {_LARGEST:g}"
            raise CompilationError(msg, hint="compile with --precision fp32")
        return self.plan.new_constant(np.asarray(data, np.float16))

    def cast(self, ref: Ref, size: int, destination: Literal["float16", "float32"]) -> Ref:
        """Append a conversion."""
        num_bytes = 2 if destination == "float16" else 4
        return self.call(Cast(size, destination), [ref], size, bytes_per_value=num_bytes)

    def lower_unknown(self, node: Node) -> None:
        """Lower an operation that no kernel of ours serves."""
        lower_generic(InFloat32(self), node)  # type: ignore[arg-type]


class InFloat32:
    """A lowering as `lower_generic` sees it: all values are float32."""

    def __init__(self, lowering: HalfLowering) -> None:
        self._lowering, self.plan = lowering, lowering.plan

    def choose_config(self, workload: Workload) -> Config | None:
        """Pick the tuned configuration of a workload."""
        return self._lowering.choose_config(workload)

    def read(self, value: Value, layout: str) -> Ref:
        """Return a value, cast."""
        return self._lowering.cast(self._lowering.read(value, layout), value.size, "float32")

    def put(self, value: Value, ref: Ref, layout: str) -> None:
        """Note where a value lies, after a cast."""
        self._lowering.put(value, self._lowering.cast(ref, value.size, "float16"), layout)
