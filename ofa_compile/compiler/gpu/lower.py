"""Graph of fused operations -> plan of launches on a GPU."""

from __future__ import annotations

from typing import Any

from ofa_compile.compiler.graph import Node
from ofa_compile.compiler.lower import Lowering
from ofa_compile.compiler.workload import GatedPointwise
from ofa_compile.errors import UnsupportedOperatorError


class GpuLowering(Lowering):
    """Differs from a CPU's in how squeeze-excite is applied and in what it does not know."""

    family = "gpu"

    def lower_unknown(self, node: Node) -> None:
        """Refuse what no GPU kernel serves.

        Raises
        ------
        UnsupportedOperatorError
            Always.
        """
        msg = f"operator '{node.op}' has no kernel for GPUs"
        hint = "compile for a CPU target, which takes every operator that TVM can lower"
        raise UnsupportedOperatorError(msg, hint=hint)

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
