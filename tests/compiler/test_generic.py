"""Networks with operators that have no kernel here: slower, and still right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compiled import kinds
from foreign import FOREIGN, body
from onnx import TensorProto
from onnx_nets import Net

from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.lower import lower
from ofa_compile.compiler.pipeline import run_passes
from ofa_compile.errors import UnsupportedOperatorError

Agree = Callable[..., Any]


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
