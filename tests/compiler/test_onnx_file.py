from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_nets import Net

from ofa_compile.compiler.onnx_file import load_onnx, onnx_identity
from ofa_compile.errors import UserInputError


def net() -> Net:
    net = Net((1, 3, 8, 8))
    net.conv((3, 16))
    net.classifier(16)
    return net


def with_side_file(path: Path, scale: float) -> Path:
    """Save a model whose weights lie in `weights.data` beside it."""
    model = net().model()
    for tensor in model.graph.initializer:
        data = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
        tensor.CopyFrom(onnx.numpy_helper.from_array(data, tensor.name))
    options = {"location": "weights.data", "size_threshold": 0, "convert_attribute": False}
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=True, **options)
    return path


def test_identity_is_that_of_the_content(tmp_path: Path) -> None:
    first, second = (net().save(tmp_path / f"{name}.onnx") for name in "ab")
    assert onnx_identity(first) == onnx_identity(second)
    second.write_bytes(second.read_bytes() + b"\x00")
    assert onnx_identity(first) != onnx_identity(second)


def test_identity_includes_weights_in_other_files(tmp_path: Path) -> None:
    path = with_side_file(tmp_path / "net.onnx", 1.0)
    text, identity = path.read_bytes(), onnx_identity(path)
    (tmp_path / "weights.data").unlink()
    with_side_file(path, 2.0)
    assert path.read_bytes() == text
    assert onnx_identity(path) != identity


def test_a_missing_side_file_is_named(tmp_path: Path) -> None:
    path = with_side_file(tmp_path / "net.onnx", 1.0)
    (tmp_path / "weights.data").unlink()
    with pytest.raises(UserInputError, match=r"weights\.data"):
        onnx_identity(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"cannot read .*none\.onnx: No such file"):
        onnx_identity(tmp_path / "none.onnx")
    with pytest.raises(UserInputError, match=r"cannot read .*: Is a directory"):
        onnx_identity(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x00" * 100, bytes(range(256)) * 4])
def test_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(UserInputError, match=r"net\.onnx: not a"):
        load_onnx(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = net().save(tmp_path / "net.onnx")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserInputError, match=r"net\.onnx: not a") as caught:
        load_onnx(path)
    assert "export" in str(caught.value.hint)
