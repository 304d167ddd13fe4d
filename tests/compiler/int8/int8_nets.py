"""A small network with everything that int8 has kernels for."""

from __future__ import annotations

from onnx_nets import Net


def block_net() -> Net:
    """A stem, an inverted residual with squeeze-excite, and a classifier."""
    net = Net((1, 3, 12, 12))
    net.conv((3, 16), strides=[2, 2])
    start = net.op("HardSwish")
    net.conv((16, 24), 1)
    net.op("HardSwish")
    net.conv((24, 24), 5, group=24)
    wide = net.op("Relu")
    net.op("GlobalAveragePool", wide)
    net.conv((24, 8), 1)
    net.op("Relu")
    net.conv((8, 24), 1)
    gate = net.op("HardSigmoid", alpha=1 / 6, beta=0.5)
    net.op("Mul", wide, gate)
    net.conv((24, 16), 1)
    net.op("Add", net.last, start)
    net.op("GlobalAveragePool")
    net.op("Flatten")
    net.op("Gemm", net.last, net.draw(16, 8), net.draw(8))
    return net
