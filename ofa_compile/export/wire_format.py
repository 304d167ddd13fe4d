"""Lay out an ONNX file without copying its weights.

A protobuf message of 190 MB costs four copies on its way to a file (bytes, message, serialised
message, page cache), most of an export's time. The wire format of an embedded message is only its
tag, its length and its bytes (protobuf.dev, "Encoding"), so the weights go from their arrays
straight to the file. The bytes are those that `SerializeToString` would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

_LENGTH_DELIMITED = 2
_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER

Chunk = bytes | memoryview


@dataclass(frozen=True)
class Weight:
    """A float32 initializer: contiguous little-endian values under a name."""

    name: str
    array: NDArray[np.float32]


def encode_model(model: onnx.ModelProto, weights: Sequence[Weight]) -> list[Chunk]:
    """Return the serialised model, with `weights` as its graph's initializers, in pieces.

    Parameters
    ----------
    model
        Complete but for the initializers, which it must not have.
    weights
        Their memory is referred to, not copied: write the pieces before it changes.
    """
    graph = model.graph
    before = onnx.GraphProto(node=graph.node, name=graph.name).SerializeToString()
    after = onnx.GraphProto(
        input=graph.input, output=graph.output, value_info=graph.value_info
    ).SerializeToString()
    body: list[Chunk] = [before]
    for weight in weights:
        body.extend(_encode_weight(weight))
    body.append(after)
    head = onnx.ModelProto(
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    ).SerializeToString()
    tail = onnx.ModelProto(opset_import=model.opset_import).SerializeToString()
    return [head, _prefix(_GRAPH, _size(body)), *body, tail]


def _encode_weight(weight: Weight) -> list[Chunk]:
    # As bytes through numpy: a memoryview of rank 0 or without elements cannot be cast.
    values = weight.array.reshape(-1).view(np.uint8).data
    data: list[Chunk] = [_prefix(_RAW_DATA, len(values)), values]
    # dims (1), data_type (2) and name (8) stand before raw_data (9) in the order of field numbers.
    header = onnx.TensorProto(
        dims=weight.array.shape, data_type=onnx.TensorProto.FLOAT, name=weight.name
    ).SerializeToString()
    return [_prefix(_INITIALIZER, len(header) + _size(data)), header, *data]


def _prefix(field: int, size: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(number: int) -> bytes:
    """Encode seven bits a byte, lowest first, the top bit saying that more follow."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _size(chunks: Sequence[Chunk]) -> int:
    return sum(map(len, chunks))
