"""Random networks of known and foreign operators, compared with onnx; seeded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_nets import Net

Agree = Callable[..., Any]
Shape = tuple[int, ...]


def choose(net: Net, *options: Any) -> Any:
    return options[int(net.rng.integers(len(options)))]


def convolution(net: Net, shape: Shape) -> Shape:
    channels = choose(net, 4, 8, 12, 19)
    kernel, stride = choose(net, 1, 3, 5), choose(net, 1, 1, 2)
    net.conv((shape[1], channels), kernel, choose(net, True, False), strides=[stride] * 2)
    return (shape[0], channels, -(-shape[2] // stride), -(-shape[3] // stride))


def depthwise(net: Net, shape: Shape) -> Shape:
    kernel, stride = choose(net, 3, 5, 7), choose(net, 1, 1, 2)
    net.conv((shape[1], shape[1]), kernel, group=shape[1], strides=[stride] * 2)
    return (*shape[:2], -(-shape[2] // stride), -(-shape[3] // stride))


def batch_norm(net: Net, shape: Shape) -> Shape:
    net.batch_norm(shape[1])
    return shape


def activation(net: Net, shape: Shape) -> Shape:
    kind = choose(net, "Relu", "HardSwish", "Sigmoid", "Clip", "spelt", "HardSigmoid")
    x = net.last
    if kind in ("Clip", "spelt"):
        source = x if kind == "Clip" else net.op("Add", x, np.float32(3))
        clipped = net.op("Clip", source, np.float32(0), np.float32(6))
        if kind == "spelt":
            net.op("Div", net.op("Mul", *choose(net, (x, clipped), (clipped, x))), np.float32(6))
    else:
        net.op(kind, **({"alpha": 1 / 6, "beta": 0.5} if kind == "HardSigmoid" else {}))
    return shape


def gate(net: Net, shape: Shape) -> Shape:
    net.squeeze_excite(shape[1], 3)
    return shape


def constant(net: Net, shape: Shape) -> Shape:
    sizes = choose(net, (1,), (1, shape[1], 1, 1), (shape[1], 1, 1), shape[1:])
    net.op(choose(net, "Add", "Mul", "Sub"), *choose_order(net, net.last, net.draw(*sizes)))
    return shape


def choose_order(net: Net, *pair: Any) -> Any:
    return choose(net, pair, pair[::-1])


def pool(net: Net, shape: Shape) -> Shape:
    kind = choose(net, "MaxPool", "AveragePool")
    net.op(kind, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return (*shape[:2], -(-shape[2] // 2), -(-shape[3] // 2))


PARTS = (
    convolution,
    convolution,
    depthwise,
    batch_norm,
    activation,
    activation,
    gate,
    constant,
    pool,
)


def random_net(seed: int) -> Net:
    """Return a network whose operators read one of the last maps, or combine two equal ones."""
    rng = np.random.default_rng(seed)
    shape = (choose_batch(rng), 3, int(rng.integers(1, 14)), int(rng.integers(1, 14)))
    net = Net(shape, seed=seed)
    maps = [("input", shape)]
    for _ in range(int(rng.integers(4, 12))):
        name, size = maps[int(rng.integers(max(0, len(maps) - 3), len(maps)))]
        equal = [other for other, its in maps if its == size and other != name]
        net.last = name
        if equal and rng.random() < 0.4:
            other = equal[int(rng.integers(len(equal)))]
            kind = choose(net, "Add", "Add", "Add", "Mul", "Concat")
            net.op(kind, name, other, **({"axis": 1} if kind == "Concat" else {}))
            size = (size[0], 2 * size[1], *size[2:]) if kind == "Concat" else size
        else:
            size = PARTS[int(rng.integers(len(PARTS)))](net, size)
        maps.append((net.last, size))
    net.classifier(maps[-1][1][1])
    return net


def choose_batch(rng: np.random.Generator) -> int:
    return int(rng.choice([1, 1, 1, 2]))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_onnx(agree: Agree, seed: int) -> None:
    agree(random_net(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_agree_with_onnx(agree: Agree, seed: int) -> None:
    agree(random_net(seed))
