from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_nets import Net, mobile_net

from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.pipeline import run_passes
from ofa_compile.errors import CompilationError, UnsupportedOperatorError


def pooled(net: Net) -> Net:
    net.op("GlobalAveragePool")
    net.op("Flatten")
    return net


def test_reads_shapes_operations_and_attributes(tmp_path: Path) -> None:
    net = Net((2, 3, 9, 7))
    net.conv((3, 6), 5, strides=[2, 1], group=3, bias=False)
    graph = import_onnx(pooled(net).save(tmp_path / "net.onnx"))
    assert graph.input.shape == (2, 3, 9, 7)
    assert graph.output.shape == (2, 6)
    conv = graph.nodes[0]
    assert conv.op == "conv2d"
    assert conv.output.shape == (2, 6, 5, 7)
    assert conv.inputs[1].shape == (6, 1, 5, 5)
    found = {name: conv.attrs[name] for name in ("strides", "padding", "dilation", "groups")}
    expected = {"strides": (2, 1), "padding": (2,) * 4, "dilation": (1, 1), "groups": 3}
    assert found == expected


def test_a_mobile_network_becomes_fused_operations(tmp_path: Path) -> None:
    graph = import_onnx(mobile_net().save(tmp_path / "net.onnx"))
    run_passes(graph)
    found = [(node.op, node.attrs.get("activation", "none")) for node in graph.nodes]
    assert found == [
        ("convolution", "hswish"),
        ("convolution", "relu"),
        ("convolution", "hswish"),
        ("global_pool", "none"),
        ("convolution", "relu"),
        ("convolution", "hsigmoid"),
        ("convolution", "none"),  # scaled weights, residual
        ("convolution", "relu6"),
        ("convolution", "relu"),
        ("convolution", "none"),
        ("global_pool", "none"),
        ("reshape", "none"),
        ("dense", "none"),
    ]
    projection = graph.nodes[6].attrs
    assert projection["scale"]
    assert projection["residual"]


def spell_hard_swish(net: Net) -> None:
    x = net.last
    net.op("Add", x, np.float32(3))
    net.op("Clip", net.last, np.float32(0), np.float32(6))
    net.op("Mul", x, net.last)
    net.op("Div", net.last, np.float32(6))


def spell_hard_sigmoid(net: Net) -> None:
    net.op("Add", net.last, np.float32(3))
    net.op("Clip", net.last, np.float32(0), np.float32(6))
    net.op("Mul", net.last, np.float32(1 / 6))


SPELLINGS: dict[str, tuple[str, Any]] = {
    "Relu": ("relu", lambda net: net.op("Relu")),
    "HardSwish": ("hswish", lambda net: net.op("HardSwish")),
    "HardSigmoid": ("hsigmoid", lambda net: net.op("HardSigmoid", alpha=1 / 6, beta=0.5)),
    "Clip": ("relu6", lambda net: net.op("Clip", net.last, np.float32(0), np.float32(6))),
    "spelt hswish": ("hswish", spell_hard_swish),
    "spelt hsigmoid": ("hsigmoid", spell_hard_sigmoid),
}


@pytest.mark.parametrize(("name", "spell"), SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_activations(tmp_path: Path, name: str, spell: Any) -> None:
    net = Net((1, 3, 6, 6))
    net.conv((3, 5))
    spell(net)
    graph = import_onnx(pooled(net).save(tmp_path / "net.onnx"))
    run_passes(graph)
    assert [node.op for node in graph.nodes] == ["convolution", "global_pool", "reshape"]
    assert graph.nodes[0].attrs["activation"] == name


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_disappears(tmp_path: Path, bias: bool) -> None:
    net = Net((1, 3, 6, 6))
    net.conv((3, 4), bias=bias)
    net.batch_norm(4)
    net.op("Relu")
    graph = import_onnx(pooled(net).save(tmp_path / "net.onnx"))
    run_passes(graph)
    assert [node.op for node in graph.nodes] == ["convolution", "global_pool", "reshape"]


def refused(path: Path, match: str) -> None:
    with pytest.raises(CompilationError, match=match):
        import_onnx(path)


def test_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    net.conv((3, 4))
    shape = ["batch", 3, "height", "width"]
    path = pooled(net).save(tmp_path / "net.onnx", input_shape=shape)
    refused(path, "no static shape; export the network with fixed sizes")


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    net.op("Add", "input", "second")
    second = helper.make_tensor_value_info("second", TensorProto.FLOAT, net.shape)
    path = pooled(net).save(tmp_path / "net.onnx", more_inputs=[second])
    refused(path, "2 inputs; exactly one")


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    net.op("Relu")
    pooled(net)
    second = helper.make_tensor_value_info("t0", TensorProto.FLOAT, None)
    refused(net.save(tmp_path / "net.onnx", more_outputs=[second]), "2 outputs; exactly one")


@pytest.mark.parametrize("kind", ["INT64", "FLOAT16", "DOUBLE"])
def test_other_input_types_are_refused(tmp_path: Path, kind: str) -> None:
    net = Net((1, 3, 8, 8))
    net.op("Cast", to=TensorProto.FLOAT)
    path = pooled(net).save(tmp_path / "net.onnx", input_type=getattr(TensorProto, kind))
    names = {"INT64": "int64", "FLOAT16": "float16", "DOUBLE": "float64"}
    refused(path, f"type {names[kind]}; only float32")


def test_inputs_that_are_no_images_are_refused(tmp_path: Path) -> None:
    net = Net((2, 8))
    net.op("Gemm", net.last, net.draw(8, 3))
    refused(net.save(tmp_path / "net.onnx"), r"input has shape \(2, 8\); it must be \(N, C, H, W\)")


def test_outputs_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    net.op("Relu")
    match = r"output has shape \(1, 3, 8, 8\); it must be \(N, classes\)"
    refused(net.save(tmp_path / "net.onnx"), match)


def test_several_outputs_of_an_operator_are_refused(tmp_path: Path) -> None:
    net = Net((1, 4, 8, 8))
    net.nodes.append(helper.make_node("Split", ["input"], ["a", "b"], axis=1, num_outputs=2))
    net.op("Add", "a", "b")
    refused(pooled(net).save(tmp_path / "net.onnx"), "several outputs")


def test_operators_that_tvm_does_not_know_are_listed(tmp_path: Path) -> None:
    net = Net((1, 3, 8, 8))
    net.op("Celu")
    with pytest.raises(UnsupportedOperatorError, match=r"cannot import it: .*Celu"):
        import_onnx(pooled(net).save(tmp_path / "net.onnx"))
