"""Networks with operators that have no kernel here: slower, and still right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import kinds
from onnx import TensorProto
from onnx_nets import Net

from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.lower import lower
from ofa_compile.compiler.pipeline import run_passes
from ofa_compile.errors import UnsupportedOperatorError

Agree = Callable[..., Any]


def body(*build: Callable[[Net], Any], shape: tuple[int, ...] = (1, 3, 9, 7)) -> Net:
    """Return stem, the operators under test on a map of 8 channels, and a classifier."""
    net = Net(shape)
    net.conv((3, 8))
    for part in build:
        part(net)
    net.classifier(8)
    return net


def twice(net: Net, kind: str) -> str:
    x = net.last
    return net.op(kind, x, net.op("Sigmoid", x))


FOREIGN: dict[str, Callable[[Net], Any]] = {
    "grouped convolution": lambda net: net.conv((8, 8), 3, group=2),
    "dilated convolution": lambda net: net.conv((8, 8), 3, dilations=[2, 3], pads=[2, 3, 2, 3]),
    "channel multiplier": lambda net: (net.conv((8, 16), 3, group=8), net.conv((16, 8), 1)),
    "sigmoid": lambda net: net.op("Sigmoid"),
    "gelu": lambda net: (net.op("Erf"), net.op("Mul", net.last, np.float32(0.5))),
    "tanh": lambda net: net.op("Tanh"),
    "leaky relu": lambda net: net.op("LeakyRelu", alpha=0.1),
    "hard sigmoid of another slope": lambda net: net.op("HardSigmoid"),
    "softmax over channels": lambda net: net.op("Softmax", axis=1),
    "subtract": lambda net: twice(net, "Sub"),
    "product of two maps": lambda net: twice(net, "Mul"),
    "concatenation": lambda net: (
        net.op("Concat", net.last, net.op("Relu", net.last), axis=1),
        net.conv((16, 8), 1),
    ),
    "bias map": lambda net: net.op("Add", net.last, net.draw(1, 8, 9, 7)),
    "minimum": lambda net: net.op("Min", net.last, np.float32(0.3)),
    "transpose": lambda net: net.op("Transpose", perm=[0, 1, 3, 2]),
    "batch norm alone": lambda net: (net.op("Sigmoid"), net.batch_norm(8)),
    "dilated pool": lambda net: net.op("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    "transposed convolution": lambda net: net.op(
        "ConvTranspose", net.last, net.draw(8, 8, 2, 2), strides=[2, 2]
    ),
    "bare upsampling": lambda net: net.op(
        "Resize", net.last, "", np.float32([1, 1, 2, 2]), mode="nearest"
    ),
}


@pytest.mark.parametrize("build", FOREIGN.values(), ids=FOREIGN)
def test_agrees_with_onnx(agree: Agree, build: Callable[[Net], Any]) -> None:
    compiled = agree(body(build, lambda net: net.op("Relu")))
    assert any(name.startswith("generic:") for name in kinds(compiled)), kinds(compiled)


def test_softmax_behind_the_classifier(agree: Agree) -> None:
    net = body()
    net.op("Softmax", axis=1)
    assert kinds(agree(net))[-1] == "generic:softmax"


def test_large_intermediate_maps_do_not_overflow_the_stack(agree: Agree) -> None:
    # The exponentials take 8.8 MB, more than a stack usually has.
    net = Net((1, 2, 1100, 1000))
    net.op("Softmax", axis=1)
    net.classifier(2)
    compiled = agree(net)
    assert compiled.arena_bytes > 2 * 2 * 1100 * 1000 * 4


def lowered(net: Net, path: Path) -> Any:
    graph = import_onnx(net.save(path))
    run_passes(graph)
    return lower(graph, VectorMachine(8, 16, False), lambda _: None)


def test_other_types_inside_are_refused(tmp_path: Path) -> None:
    net = body(
        lambda net: net.op("Cast", to=TensorProto.INT32),
        lambda net: net.op("Cast", to=TensorProto.FLOAT),
    )
    with pytest.raises(UnsupportedOperatorError, match=r"works on .*; only float32 is supported"):
        lowered(net, tmp_path / "net.onnx")


def test_scratch_is_part_of_the_plan(tmp_path: Path) -> None:
    plan = lowered(body(lambda net: net.op("Softmax", axis=1)), tmp_path / "net.onnx")
    (step,) = [s for s in plan.steps if s.workload.kind == "generic"]
    own = [ref for ref in step.arguments if ref not in {s.output for s in plan.steps}]
    sizes = sorted(plan.buffer_bytes[ref.index] for ref in own if ref.space == "buffer")
    assert sizes == [256, 256, 2048]
