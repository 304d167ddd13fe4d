"""What kernels are compared with, beside PyTorch's own operators in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from test_random_shapes import draw_workload
from torch.nn import functional

from ofa_compile.compiler.workload import (
    Activate,
    Add,
    ChangeLayout,
    Convolution,
    Depthwise,
    GatedPointwise,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    ScaleWeights,
    Workload,
)
from ofa_compile.tuning.references import Case, make_case

ACTIVATIONS: dict[str, Any] = {
    "none": lambda x: x,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "hsigmoid": functional.hardsigmoid,
    "hswish": functional.hardswish,
}


def torch_result(case: Case) -> torch.Tensor:
    """Compute a case in PyTorch; a map is (N, H, W, C), or rows by channels, as in the case."""
    work: Any = case.workload
    x, *others = (torch.from_numpy(array).double() for array in case.inputs)
    known = {name: torch.from_numpy(array).double() for name, array in case.constants.items()}
    if isinstance(work, Activate):
        return ACTIVATIONS[work.activation](x)
    if isinstance(work, GlobalPool):
        return functional.adaptive_avg_pool1d(x.transpose(1, 2), 1).squeeze(2)
    if isinstance(work, ScaleChannels):
        return x * others[0][:, None]
    if isinstance(work, ScaleWeights):
        panels = known["weight"].split([work.in_channels * width for width in work.block_widths])
        return torch.cat(
            [
                (p.unflatten(0, (-1, width)).T * x).T.flatten()
                for p, width in zip(panels, work.block_widths, strict=True)
            ]
        )
    if isinstance(work, Add):
        return ACTIVATIONS[work.activation](x + others[0])
    if isinstance(work, ChangeLayout):
        return x.transpose(1, 2)
    if isinstance(work, Pool):
        return pooled(work, x)
    if isinstance(work, GatedPointwise):
        gate = others.pop()
        x = (x.unflatten(0, (work.batch, -1)) * gate[:, None]).flatten(0, 1)
    if isinstance(work, Pointwise | GatedPointwise):
        y = functional.linear(x, known["weight"], known["bias"])
    else:
        y = convolved(work, x, known)
    return ACTIVATIONS[work.activation](y + others[0] if others else y)


def padded(work: Any, x: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    """Return NHWC maps as NCHW, with the window's padding, whose sides may differ."""
    top, left, bottom, right = work.padding
    return functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom), value=value)


def convolved(work: Any, x: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
    if isinstance(work, Convolution) and work.input_layout == "nchw":
        x = x.permute(0, 2, 3, 1)
    groups = work.channels if isinstance(work, Depthwise) else 1
    y = functional.conv2d(
        padded(work, x), known["weight"], known["bias"], stride=work.stride, groups=groups
    )
    return y.permute(0, 2, 3, 1)


def pooled(work: Pool, x: torch.Tensor) -> torch.Tensor:
    if work.reduction == "max":
        y = functional.max_pool2d(padded(work, x, -torch.inf), work.kernel, work.stride)
    else:
        y = functional.avg_pool2d(padded(work, x), work.kernel, work.stride)
        if not work.count_padding:
            y = y / functional.avg_pool2d(
                padded(work, torch.ones_like(x)), work.kernel, work.stride
            )
    return y.permute(0, 2, 3, 1)


def draw_all(rng: np.random.Generator) -> list[Workload]:
    few: list[Workload] = [
        Activate(70, activation) for activation in ACTIVATIONS if activation != "none"
    ]
    few += [GlobalPool(2, 49, 13), ScaleChannels(2, 9, 5)]
    few += [
        GatedPointwise(12, 7, 9, "hswish", has_residual, batch=2) for has_residual in (False, True)
    ]
    return few + [draw_workload(rng) for _ in range(200)]


def test_references_are_pytorchs(rng: np.random.Generator) -> None:
    kinds = set()
    for workload in draw_all(rng):
        case = make_case(workload, rng)
        found = torch_result(case).numpy()
        assert found.shape == case.expected.shape, workload
        np.testing.assert_allclose(
            found, case.expected, rtol=1e-9, atol=1e-9, err_msg=str(workload)
        )
        kinds.add(workload.kind)
    assert len(kinds) == 11


def test_activations_are_taken_on_every_branch(rng: np.random.Generator) -> None:
    x = make_case(Activate(1000, "relu"), rng).inputs[0]
    for low, high in ((-99, -3), (-3, 0), (0, 3), (3, 6), (6, 99)):
        assert ((x > low) & (x < high)).any()
