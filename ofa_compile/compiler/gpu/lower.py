"""Graph of fused operations -> plan of launches on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ofa_compile.compiler.fp16 import HalfLowering, InFloat32
from ofa_compile.compiler.generic import lower_generic
from ofa_compile.compiler.gpu.generic import append_launches
from ofa_compile.compiler.graph import Graph, Node
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.lower import ChooseConfig, Lowering
from ofa_compile.compiler.plan import Ref
from ofa_compile.compiler.tvm_api import PrimFunc
from ofa_compile.compiler.workload import GatedPointwise, Generic


class GpuLowering(Lowering):
    """Differs from a CPU's in how squeeze-excite is applied and in what it does not know.

    Parameters
    ----------
    graph, machine, choose_config
        As of `Lowering`.
    tvm_target
        Limits of the GPU, by which operators without a kernel of ours are scheduled.
    """

    family = "gpu"

    def __init__(
        self,
        graph: Graph,
        machine: GpuMachine,
        choose_config: ChooseConfig,
        tvm_target: Mapping[str, Any],
    ) -> None:
        super().__init__(graph, machine, choose_config)
        self.tvm_target = tvm_target

    def lower_unknown(self, node: Node) -> None:
        """Lower an operation that no kernel of ours serves to launches of TVM's."""
        lower_generic(self, node, self._append_launches)

    def _append_launches(
        self,
        _: Lowering,
        workload: Generic,
        function: PrimFunc,
        config: dict[str, Any],
        arguments: list[Ref],
        size: int,
    ) -> Ref:
        what = (workload, function, config, arguments, size)
        return append_launches(self.plan, *what, self.tvm_target)

    def _pointwise(self, node: Node, constants: dict[str, Any], activation: Any) -> bool:
        if not node.attrs.get("scale"):
            return super()._pointwise(node, constants, activation)
        x, gate, *residual = node.inputs
        batch, channels, height, width = x.shape
        workload = GatedPointwise(
            rows=batch * height * width,
            in_channels=channels,
            out_channels=node.output.shape[1],
            activation=activation,
            has_residual=bool(residual),
            batch=batch,
        )
        inputs = [self.read(value, "nhwc") for value in (x, *residual, gate)]
        self.put(node.output, self.call(workload, inputs, node.output.size, constants), "nhwc")
        return True


class GpuHalfLowering(GpuLowering, HalfLowering):
    """Lowers to buffers of halves; operators without a kernel of ours run in float32."""

    def lower_unknown(self, node: Node) -> None:
        """Lower an operation that no kernel of ours serves to launches of TVM's."""
        lower_generic(InFloat32(self), node, self._append_launches)  # type: ignore[arg-type]
