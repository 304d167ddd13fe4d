"""Bounds on the time of a workload."""

from __future__ import annotations

import numpy as np
import pytest

from ofa_compile.compiler.workload import (
    Convolution,
    Depthwise,
    GlobalPool,
    Pointwise,
    PointwiseInt8,
)
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.tuning.references import make_case
from ofa_compile.tuning.roofline import Roofline, num_values, real_macs


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 1)])
def test_taps_in_the_padding_are_not_counted(kernel: int, stride: int) -> None:
    pad = kernel // 2
    window = (1, 9, 6, (kernel, kernel), (stride, stride), (pad,) * 4)
    work = Depthwise(*window, 4)
    # With ones everywhere, an output is the number of its taps inside the map.
    case = make_case(work, np.random.default_rng(0))
    case.inputs[0][:] = 1.0
    ones = np.ones((9, 6))
    padded = np.pad(ones, pad)
    inside = sum(
        padded[r * stride : r * stride + kernel, c * stride : c * stride + kernel].sum()
        for r in range(work.out_height)
        for c in range(work.out_width)
    )
    assert real_macs(work) == 4 * inside < work.macs
    assert real_macs(Convolution(*window, 3, 8)) == 24 * inside


def test_values_are_those_of_the_tensors(rng: np.random.Generator) -> None:
    for work in (
        Pointwise(49, 24, 40, "none", has_residual=True),
        Depthwise(1, 14, 14, (5, 5), (2, 2), (2,) * 4, 32),
        Convolution(1, 8, 8, (3, 3), (1, 1), (1,) * 4, 16, 24),
        GlobalPool(1, 49, 64),
    ):
        case = make_case(work, rng)
        tensors = sum(x.size for x in case.inputs) + case.expected.size
        weights = case.constants["weight"].size if "weight" in case.constants else 0
        assert tensors <= num_values(work) <= tensors + weights


def test_the_peak_is_raised_by_what_was_measured() -> None:
    roofline = Roofline(load_target("x86-64"))  # 8 lanes x 2 x 3 GHz
    work = Pointwise(196, 480, 112)
    assert roofline.time_us(work) == pytest.approx(work.macs / 48_000 + 100 / 3000)
    assert not roofline.is_known
    roofline.learn(work, work.macs / 96_000)
    raised = roofline.time_us(work)
    assert raised == pytest.approx(work.macs / 96_000 + 100 / 6000)
    assert roofline.share(work, work.macs / 96_000) == pytest.approx(1.0, abs=0.01)
    roofline.learn(work, 1e9)
    assert roofline.time_us(work) == raised
    for rows in range(100, 108):
        roofline.learn(Pointwise(rows, 480, 112), 1e9)
    assert roofline.is_known


def test_other_precisions_have_higher_bounds() -> None:
    a76 = load_target("cortex-a76")
    floats, halves, mixed = (Roofline(target_in(a76, p)) for p in ("fp32", "fp16", "int8"))
    product, on_bytes = Pointwise(196, 480, 112), PointwiseInt8(196, 480, 112)
    assert floats.time_us(product) == mixed.time_us(product)
    call = 100e6 / a76.core.frequency_hz
    assert halves.time_us(product) - call == pytest.approx((floats.time_us(product) - call) / 2)
    assert mixed.time_us(on_bytes) - call == pytest.approx((floats.time_us(product) - call) / 4)
