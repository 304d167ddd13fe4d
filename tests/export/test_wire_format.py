import numpy as np
import onnx
import pytest
from onnx import helper

from ofa_compile.export.wire_format import Weight, encode_model


def model_without_weights() -> onnx.ModelProto:
    node = helper.make_node("Add", ["input", "w"], ["logits"], name="add")
    value = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, (2, 3))
    result = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (2, 3))
    graph = helper.make_graph([node], "subnet", [value], [result])
    opset = helper.make_opsetid("", 18)
    names = {"producer_name": "test", "producer_version": "1"}
    return helper.make_model(graph, opset_imports=[opset], ir_version=8, **names)


# Lengths around 7 and 14 bits, where the length's own encoding grows by a byte.
@pytest.mark.parametrize("size", [0, 1, 20, 31, 32, 33, 4095, 4096, 4097, 600_000])
def test_bytes_are_those_of_protobuf(size: int) -> None:
    array = np.arange(size, dtype="<f4").reshape(1, size)
    model = model_without_weights()
    content = b"".join(
        encode_model(model, [Weight("w", array), Weight("scalar", np.float32(2.5).reshape(()))])
    )

    for name, values in (("w", array), ("scalar", np.array(2.5, dtype="<f4"))):
        model.graph.initializer.add(
            name=name,
            dims=values.shape,
            data_type=onnx.TensorProto.FLOAT,
            raw_data=values.tobytes(),
        )
    assert content == model.SerializeToString(deterministic=True)
