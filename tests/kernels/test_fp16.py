"""Kernels on halves, at sizes around each tile's edge, against numpy on the same halves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from int8_harness import run_cases
from test_convolution import convolution
from test_depthwise import depthwise

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.workload import (
    Activate,
    Add,
    ChangeLayout,
    GlobalPool,
    Pointwise,
    Pool,
    ScaleChannels,
    ScaleWeights,
    Workload,
)
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.tuning.references import Case, make_case

pytestmark = pytest.mark.arm64
# Weights and results are rounded to 11 bits, and so is every one of up to hundreds of partial sums.
TOLERANCE = 8e-3


@pytest.fixture(scope="module")
def target(runnable: Callable[[TargetSpec], TargetSpec]) -> TargetSpec:
    return runnable(target_in(load_target("cortex-a76"), "fp16"))


def half_case(workload: Workload, rng: np.random.Generator) -> Case:
    """Draw a case and round what is expected."""
    case = make_case(workload, rng)
    return dataclasses.replace(case, expected=case.expected.astype(np.float16))


def check(
    target: TargetSpec,
    folder: Path,
    rng: np.random.Generator,
    *workloads: Workload,
    every_config: bool = False,
) -> None:
    machine, pairs = VectorMachine.of(target), []
    assert (machine.lanes, machine.value_bytes) == (8, 2)
    for workload in workloads:
        kernel = find_kernel(workload)
        assert kernel is not None
        configs = kernel.configs(workload, machine)
        case = half_case(workload, rng)
        pairs += [(case, config) for config in (configs if every_config else configs[:1])]
    for (case, config), result in zip(pairs, run_cases(pairs, target, folder), strict=True):
        expected = case.expected.astype(np.float64)
        error = np.abs(result.astype(np.float64) - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE, f"{case.workload} with {config}: {error:.1e}"


def test_products(target: TargetSpec, tmp_path: Path, rng: np.random.Generator) -> None:
    check(
        target,
        tmp_path,
        rng,
        Pointwise(13, 24, 21, "hswish"),
        Pointwise(61, 7, 40, "relu6", has_residual=True),
        Pointwise(49, 40, 16, "relu"),
        Pointwise(1, 200, 33, "hsigmoid"),
        Pointwise(30, 640, 24),
    )


def test_every_tile_of_a_product(
    target: TargetSpec, tmp_path: Path, rng: np.random.Generator
) -> None:
    check(target, tmp_path, rng, Pointwise(19, 32, 56, "relu"), every_config=True)


def test_windows(target: TargetSpec, tmp_path: Path, rng: np.random.Generator) -> None:
    check(
        target,
        tmp_path,
        rng,
        depthwise((9, 11), 6, 3, activation="hswish"),
        depthwise((14, 14), 24, 3, activation="relu"),
        depthwise((9, 9), 17, 5, 2, activation="relu"),
        depthwise((8, 8), 16, 7, activation="hswish"),
        convolution(11, (3, 10), 3, 2, input_layout="nchw", activation="hswish"),
        convolution((5, 6), (5, 9), activation="relu"),
    )


def test_maps(target: TargetSpec, tmp_path: Path, rng: np.random.Generator) -> None:
    check(
        target,
        tmp_path,
        rng,
        Pool(1, 7, 7, (3, 3), (2, 2), (1, 1, 1, 1), 12, "max"),
        Pool(1, 7, 7, (3, 3), (2, 2), (1, 1, 1, 1), 12, "mean"),
        GlobalPool(2, 49, 21),
        ScaleChannels(1, 9, 37),
        ScaleWeights(70, (24, 24, 9)),
        Add(5000),
        Activate(77, "hswish"),
        ChangeLayout(1, 5, 9, "nchw"),
    )


def test_sums_over_whole_maps_do_not_overflow(
    target: TargetSpec, tmp_path: Path, rng: np.random.Generator
) -> None:
    workload = GlobalPool(1, 3136, 8)
    x = np.full((1, 3136, 8), 100, np.float32)  # 313,600 in all, and halves end at 65,504
    case = Case(workload, [x], np.full((1, 8), 100, np.float16))
    (result,) = run_cases([(case, {"vectors": 4})], target, tmp_path)
    np.testing.assert_array_equal(result, case.expected)
