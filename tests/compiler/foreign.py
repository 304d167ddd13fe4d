"""Operators that no kernel of ours serves, each in a small network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx_nets import Net


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
