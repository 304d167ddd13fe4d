"""Graph of fused operations -> plan of launches on a GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ofa_compile.compiler.fp16 import HalfLowering, InFloat32
from ofa_compile.compiler.generic import lower_generic
from ofa_compile.compiler.gpu.generic import append_launches
from ofa_compile.compiler.graph import Graph, Node
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.lower import ChooseConfig, Lowering, depthwise_of, pointwise_of
from ofa_compile.compiler.passes.place_scales import pointwise_reader
from ofa_compile.compiler.plan import Ref
from ofa_compile.compiler.tvm_api import PrimFunc
from ofa_compile.compiler.workload import GatedPointwise, Generic, Separable


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
        # Output of a pointwise convolution -> the depthwise one that is computed with it.
        self._separable: dict[int, tuple[Node, Separable]] = {}

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

    def _convolution(self, node: Node) -> bool:
        is_depthwise = node.attrs["groups"] != 1
        reader = pointwise_reader(self.graph, node) if is_depthwise else None
        if reader is None or reader.attrs.get("scale"):
            return super()._convolution(node)
        workload = Separable.of(depthwise_of(node), pointwise_of(reader))
        # A kernel for both has no default: without measurements there are two.
        if workload is None or self.choose_config(workload) is None:
            return super()._convolution(node)
        self._separable[reader.output.id] = node, workload
        return True

    def _pointwise(self, node: Node, constants: dict[str, Any]) -> bool:
        if node.output.id in self._separable:
            return self._both(*self._separable[node.output.id], node, constants)
        if not node.attrs.get("scale"):
            return super()._pointwise(node, constants)
        x, gate, *residual = node.inputs
        product = dataclasses.asdict(pointwise_of(node)) | {"has_dynamic_weights": False}
        workload = GatedPointwise(**product, batch=x.shape[0])
        inputs = [self.read(value, "nhwc") for value in (x, *residual, gate)]
        self.put(node.output, self.call(workload, inputs, node.output.size, constants), "nhwc")
        return True

    def _both(
        self, window: Node, workload: Separable, product: Node, constants: dict[str, Any]
    ) -> bool:
        own = {"window": window.attrs["weight"], "window_bias": window.attrs["bias"]}
        values = (window.inputs[0], *product.inputs[1:])
        inputs = [self.read(value, "nhwc") for value in values]
        ref = self.call(workload, inputs, product.output.size, own | constants)
        self.put(product.output, ref, "nhwc")
        return True


class GpuHalfLowering(GpuLowering, HalfLowering):
    """Lowers to buffers of halves; operators without a kernel of ours run in float32."""

    def lower_unknown(self, node: Node) -> None:
        """Lower an operation that no kernel of ours serves to launches of TVM's."""
        lower_generic(InFloat32(self), node, self._append_launches)  # type: ignore[arg-type]
