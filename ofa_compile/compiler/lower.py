"""Graph of fused operations -> plan of kernel calls, every map channels-last."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from ofa_compile.compiler.generic import lower_generic
from ofa_compile.compiler.graph import Graph, Node, Value
from ofa_compile.compiler.kernel_registry import (
    Config,
    Machine,
    VectorMachine,
    count_fetch_steps,
    find_kernel,
)
from ofa_compile.compiler.passes.place_scales import is_pointwise
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    ChangeLayout,
    Convolution,
    Depthwise,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    ScaleWeights,
    Workload,
)
from ofa_compile.errors import CompilationError

ChooseConfig = Callable[[Workload], Config | None]
"""Picks the tuned configuration of a workload, or None for the kernel's default."""

_RESHAPES = ("reshape", "flatten", "squeeze", "expand_dims")


def lower(graph: Graph, machine: VectorMachine, choose_config: ChooseConfig) -> Plan:
    """Turn a fused graph into a plan.

    Raises
    ------
    CompilationError
        If an operation has neither a kernel nor a generic lowering.
    """
    return Lowering(graph, machine, choose_config).run()


def _grow_to(pool: Pool, out_height: int, out_width: int) -> Pool:
    """Pad below and on the right for the incomplete windows that ceil_mode adds."""
    top, left, _, _ = pool.padding
    bottom = (out_height - 1) * pool.stride[0] + pool.kernel[0] - pool.height - top
    right = (out_width - 1) * pool.stride[1] + pool.kernel[1] - pool.width - left
    return dataclasses.replace(pool, padding=(top, left, max(0, bottom), max(0, right)))


def _is_neutral(shape: tuple[int, ...]) -> bool:
    """Whether channels-first and channels-last are the same bytes."""
    return len(shape) != 4 or shape[1] == 1 or shape[2] * shape[3] == 1


def _window(node: Node) -> dict[str, Any]:
    """Read the fields of a convolution's workload that are about its window."""
    batch, _, height, width = node.inputs[0].shape
    return {
        "batch": batch,
        "height": height,
        "width": width,
        "kernel": node.attrs["weight"].shape[2:],
        "stride": tuple(node.attrs["strides"]),
        "padding": tuple(node.attrs["padding"]),
        "activation": node.attrs.get("activation", "none"),
    }


def depthwise_of(node: Node) -> Depthwise:
    """Read the workload of a depthwise convolution."""
    return Depthwise(channels=node.inputs[0].shape[1], **_window(node))


def pointwise_of(node: Node) -> Pointwise:
    """Read the workload of a pointwise convolution, whose second input is its scale if it has one.

    A scale is multiplied into its weights.
    """
    x, *others = node.inputs
    has_scale = bool(node.attrs.get("scale"))
    batch, channels, height, width = x.shape
    return Pointwise(
        rows=batch * height * width,
        in_channels=channels,
        out_channels=node.output.shape[1],
        activation=node.attrs.get("activation", "none"),
        has_residual=len(others) > has_scale,
        has_dynamic_weights=has_scale,
    )


class Lowering:
    """Holds the plan under construction and where each value lives, in which layout."""

    family = "cpu"
    value_bytes = 4

    def __init__(self, graph: Graph, machine: Machine, choose_config: ChooseConfig) -> None:
        self.graph = graph
        self.machine = machine
        self.choose_config = choose_config
        self.plan = Plan(graph.input.shape, graph.output.shape)
        self.places: dict[tuple[int, str], Ref] = {}
        self.put(graph.input, Ref("input"), "nchw")

    def run(self) -> Plan:
        """Lower every node and return the plan."""
        for node in self.graph.nodes:
            self.lower_node(node)
        self.plan.output = self.read(self.graph.output, "nchw")
        if self.plan.output.space != "buffer":
            msg = "the network computes nothing: its output is its input or a constant"
            raise CompilationError(msg)
        return self.plan

    # Values and their layouts

    def put(self, value: Value, ref: Ref, layout: str) -> None:
        """Note where a value lies in a layout."""
        layouts = ("nchw", "nhwc") if _is_neutral(value.shape) else (layout,)
        for name in layouts:
            self.places[value.id, name] = ref

    def has(self, value: Value, layout: str) -> bool:
        """Whether a value exists in a layout."""
        return (value.id, layout) in self.places

    def read(self, value: Value, layout: str) -> Ref:
        """Return the value in `layout`, changing it where it exists only in the other."""
        if value.data is not None and not self.has(value, layout):
            data = value.data
            if layout == "nhwc" and data.ndim == 4:
                data = data.transpose(0, 2, 3, 1)
            self.put(value, self.constant(data), layout)
        if not self.has(value, layout):
            other = "nhwc" if layout == "nchw" else "nchw"
            batch, channels, height, width = value.shape
            workload = ChangeLayout(batch, channels, height * width, layout)  # type: ignore[arg-type]
            source = self.places[value.id, other]
            self.put(value, self.call(workload, [source], value.size), layout)
        return self.places[value.id, layout]

    def constant(self, data: NDArray[Any]) -> Ref:
        """Keep a constant as the kernels read it."""
        return self.plan.new_constant(data)

    # Steps

    def config_of(self, workload: Workload) -> dict[str, Any]:
        """Return the tuned configuration of a workload, else the kernel's default."""
        kernel = find_kernel(workload, self.family)
        configs = kernel.configs(workload, self.machine) if kernel else []
        if not configs:
            msg = f"no kernel serves {workload.to_dict()}"
            raise CompilationError(msg)
        chosen = self.choose_config(workload)
        # Tuned with an older kernel, a configuration may not exist any more.
        return dict(chosen) if chosen is not None and chosen in configs else dict(configs[0])

    def call(
        self,
        workload: Workload,
        inputs: list[Ref],
        output_size: int,
        constants: dict[str, Any] | None = None,
        bytes_per_value: int | None = None,
    ) -> Ref:
        """Append a kernel call and return its output buffer."""
        config = self.config_of(workload)
        kernel = find_kernel(workload, self.family)
        assert kernel is not None
        packed = kernel.pack(workload, config, self.machine, constants or {})
        refs = [self.constant(data) for data in packed]
        output = self.plan.new_buffer(output_size, bytes_per_value or self.value_bytes)
        tiles = kernel.num_tiles(workload, config, self.machine)
        fetch_steps = count_fetch_steps(kernel, workload, config, self.machine)
        step = Step(workload, config, (*inputs, *refs), output, tiles, output_size, fetch_steps)
        self.plan.steps.append(step)
        return output

    # Operations

    def lower_node(self, node: Node) -> None:
        """Append the steps of one operation."""
        method = getattr(self, f"_{node.op}", None)
        if node.op in _RESHAPES:
            self.put(node.output, self.read(node.inputs[0], "nchw"), "nchw")
        elif method is None or not method(node):
            self.lower_unknown(node)

    def lower_unknown(self, node: Node) -> None:
        """Lower an operation that no kernel of ours serves."""
        lower_generic(self, node)

    def _convolution(self, node: Node) -> bool:
        weight = node.attrs["weight"]
        constants = {"weight": weight, "bias": node.attrs["bias"]}
        x = node.inputs[0]
        if is_pointwise(node):
            return self._pointwise(node, constants)
        size = node.output.size
        if node.attrs["groups"] != 1:
            ref = self.call(depthwise_of(node), [self.read(x, "nhwc")], size, constants)
        else:
            layout = "nhwc" if self.has(x, "nhwc") else "nchw"
            residual = [self.read(v, "nhwc") for v in node.inputs[1:]]
            convolution = Convolution(
                in_channels=x.shape[1],
                out_channels=weight.shape[0],
                has_residual=bool(residual),
                input_layout=layout,  # type: ignore[arg-type]
                **_window(node),
            )
            ref = self.call(convolution, [self.read(x, layout), *residual], size, constants)
        self.put(node.output, ref, "nhwc")
        return True

    def _pointwise(self, node: Node, constants: dict[str, Any]) -> bool:
        x, *others = node.inputs
        scale = others.pop(0) if node.attrs.get("scale") else None
        workload = pointwise_of(node)
        inputs = [self.read(x, "nhwc"), *(self.read(v, "nhwc") for v in others)]
        if scale is not None:
            inputs.append(self._scaled_weights(workload, scale, constants["weight"]))
        ref = self.call(workload, inputs, node.output.size, constants)
        self.put(node.output, ref, "nhwc")
        return True

    def _scaled_weights(self, workload: Pointwise, scale: Value, weight: Any) -> Ref:
        from ofa_compile.kernels.pointwise import block_widths, pack_weights

        config = self.config_of(workload)
        widths = block_widths(workload, config, self.machine)
        packed = pack_weights(workload, config, self.machine, weight)
        scaling = ScaleWeights(workload.in_channels, widths)
        return self.call(scaling, [self.read(scale, "nhwc")], packed.size, {"weight": packed})

    def _dense(self, node: Node) -> bool:
        rows, channels = node.inputs[0].shape
        weight = node.attrs["weight"]
        workload = Pointwise(rows, channels, weight.shape[0], node.attrs.get("activation", "none"))
        constants = {"weight": weight, "bias": node.attrs["bias"]}
        inputs = [self.read(node.inputs[0], "nchw")]
        self.put(node.output, self.call(workload, inputs, node.output.size, constants), "nchw")
        return True

    def _global_pool(self, node: Node) -> bool:
        batch, channels, height, width = node.inputs[0].shape
        workload = GlobalPool(batch, height * width, channels)
        ref = self.call(workload, [self.read(node.inputs[0], "nhwc")], node.output.size)
        self.put(node.output, ref, "nhwc")
        return True

    def _max_pool2d(self, node: Node) -> bool:
        return self._window_pool(node, "max")

    def _avg_pool2d(self, node: Node) -> bool:
        return self._window_pool(node, "mean")

    def _window_pool(self, node: Node, reduction: Any) -> bool:
        attrs = node.attrs
        batch, channels, height, width = node.inputs[0].shape
        workload = Pool(
            batch=batch,
            height=height,
            width=width,
            kernel=tuple(attrs["pool_size"]),
            stride=tuple(attrs["strides"]),
            padding=tuple(attrs["padding"]),
            channels=channels,
            reduction=reduction,
            count_padding=bool(attrs.get("count_include_pad", False)),
        )
        if tuple(attrs.get("dilation", (1, 1))) != (1, 1):
            return False
        if (workload.out_height, workload.out_width) != node.output.shape[2:]:
            if workload.count_padding:  # whether ceil_mode's share counts depends on the dialect
                return False
            workload = _grow_to(workload, *node.output.shape[2:])
        ref = self.call(workload, [self.read(node.inputs[0], "nhwc")], node.output.size)
        self.put(node.output, ref, "nhwc")
        return True

    def _scale_channels(self, node: Node) -> bool:
        x, gate = node.inputs
        batch, channels, height, width = x.shape
        workload = ScaleChannels(batch, height * width, channels)
        inputs = [self.read(x, "nhwc"), self.read(gate, "nhwc")]
        self.put(node.output, self.call(workload, inputs, node.output.size), "nhwc")
        return True

    def _activation(self, node: Node) -> bool:
        x = node.inputs[0]
        layout = "nhwc" if self.has(x, "nhwc") else "nchw"
        workload = Activate(x.size, node.attrs["name"])
        self.put(node.output, self.call(workload, [self.read(x, layout)], x.size), layout)
        return True

    def _add(self, node: Node) -> bool:
        a, b = node.inputs
        if a.shape != b.shape or a.is_constant or b.is_constant:
            return False
        layout = "nhwc" if self.has(a, "nhwc") else "nchw"
        inputs = [self.read(a, layout), self.read(b, layout)]
        self.put(node.output, self.call(Add(a.size), inputs, a.size), layout)
        return True
