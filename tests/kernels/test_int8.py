"""Kernels for bytes on each kind of core, at sizes around each tile's edge, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from int8_harness import run_cases

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.compiler.workload import (
    DepthwiseInt8,
    Dequantise,
    GlobalPoolInt8,
    PointwiseInt8,
    Quantise,
    ScaleChannelsInt8,
)
from ofa_compile.errors import MissingDependencyError, TargetSpecError
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.kernels.depthwise_int8 import channel_groups
from ofa_compile.tuning.references import Case
from ofa_compile.tuning.references_int8 import make_int8_case

ACTIVATIONS = ("none", "relu", "relu6", "hsigmoid", "hswish")
# One step where a value lies between two bytes: the kernels round once where numpy rounds twice.
MAX_STEPS = 1
Check = Callable[..., None]


@pytest.fixture(
    scope="module",
    params=[
        "host",
        "x86-64",
        *(pytest.param(n, marks=pytest.mark.arm64) for n in ("cortex-a76", "arm64")),
    ],
)
def target(request: pytest.FixtureRequest) -> TargetSpec:
    """Cores with dot products of uint8 and int8, of int16, of int8, and without any."""
    try:
        found = target_in(load_target(request.param), "int8")
        find_linker(found)
        if not found.is_native:
            find_emulator(found)
    except (TargetSpecError, MissingDependencyError) as err:
        pytest.skip(str(err))
    return found


@pytest.fixture
def check(target: TargetSpec, tmp_path: Path) -> Check:
    """Assert that every case is right with its default configuration, or all of them."""

    def run(*cases: Case, every_config: bool = False) -> None:
        machine = VectorMachine.of(target)
        pairs: list[tuple[Case, Any]] = []
        for case in cases:
            kernel = find_kernel(case.workload)
            assert kernel is not None
            configs = kernel.configs(case.workload, machine)
            assert configs, f"no kernel for {case.workload}"
            pairs += [(case, config) for config in (configs if every_config else configs[:1])]
        results = run_cases(pairs, target, tmp_path)
        for (case, config), actual in zip(pairs, results, strict=True):
            expected = case.expected.astype(np.float64)
            error = np.abs(actual.astype(np.float64) - expected)
            where = f"{case.workload} with {config}: {error.max()}"
            if case.expected.dtype == np.uint8:
                assert error.max() <= MAX_STEPS, where
                assert (error > 0).mean() < 1e-3, where
                assert len(np.unique(case.expected)) > 4  # not all clipped
            else:
                assert error.max() <= 1e-5 * np.abs(expected).max(), where

    return run


def test_pointwise_edges(check: Check, rng: np.random.Generator) -> None:
    shapes = [(1, 8, 128), (1, 4, 300), (5, 12, 4), (14, 4, 20), (15, 8, 72), (29, 36, 124)]
    shapes += [(49, 16, 64), (7, 20, 68), (3, 960, 16)]
    check(*(make_int8_case(PointwiseInt8(*shape), rng) for shape in shapes))


def test_pointwise_epilogues(check: Check, rng: np.random.Generator) -> None:
    options = [{"activation": a, "has_residual": r} for a in ACTIVATIONS for r in (False, True)]
    options += [{"activation": a, "writes": "floats"} for a in ACTIVATIONS]
    check(*(make_int8_case(PointwiseInt8(9, 16, 36, **o), rng) for o in options))  # type: ignore[arg-type]


def test_every_pointwise_configuration(check: Check, rng: np.random.Generator) -> None:
    check(make_int8_case(PointwiseInt8(31, 24, 136, "hswish"), rng), every_config=True)


def depthwise(
    size: tuple[int, int], channels: int, kernel: int, stride: int = 1, **options: Any
) -> DepthwiseInt8:
    """Describe a "same" convolution."""
    return DepthwiseInt8(
        batch=options.pop("batch", 1),
        height=size[0],
        width=size[1],
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2,) * 4,
        channels=channels,
        **options,
    )


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_maps(check: Check, rng: np.random.Generator, kernel: int, stride: int) -> None:
    sizes = [(1, 1), (2, 3), (7, 7), (9, 15), (14, 29)]
    check(
        *(make_int8_case(depthwise(s, 64, kernel, stride, activation="relu"), rng) for s in sizes)
    )


def test_depthwise_channels(check: Check, rng: np.random.Generator) -> None:
    channels = (16, 20, 24, 32, 40, 72, 88, 120, 136, 172)
    check(*(make_int8_case(depthwise((5, 6), c, 3, activation="hswish"), rng) for c in channels))


def test_depthwise_wide_rows_and_batches(check: Check, rng: np.random.Generator) -> None:
    check(
        make_int8_case(depthwise((6, 112), 24, 7), rng),
        make_int8_case(depthwise((9, 113), 64, 5, 2), rng),
        make_int8_case(depthwise((5, 60), 64, 3, batch=2), rng),
    )


def test_every_depthwise_configuration(check: Check, rng: np.random.Generator) -> None:
    check(make_int8_case(depthwise((9, 33), 48, 5), rng), every_config=True)


@pytest.mark.parametrize("channels", [16, 20, 24, 40, 72, 88, 172, 960])
def test_channel_groups_cover_all_channels(channels: int) -> None:
    for lanes in (16, 8, 4):
        groups = channel_groups(channels, VectorMachine(lanes, 32, False, "vnni"))
        seen = {c for first, width in groups for c in range(first, first + width)}
        assert seen == set(range(channels))
        assert all(width in (16, 32, 64) for _, width in groups)


def test_conversions(check: Check, rng: np.random.Generator) -> None:
    shapes = ((1, 36), (7, 64), (50, 20))
    check(*(make_int8_case(kind(*s), rng) for s in shapes for kind in (Quantise, Dequantise)))


def test_pooling_and_gates(check: Check, rng: np.random.Generator) -> None:
    shapes = ((1, 49, 36), (2, 5, 64), (1, 16, 200))
    kinds = (GlobalPoolInt8, ScaleChannelsInt8)
    check(*(make_int8_case(kind(*s), rng) for s in shapes for kind in kinds))


def test_sizes_that_no_kernel_serves() -> None:
    machine = VectorMachine(16, 32, False, "vnni")
    refused = [PointwiseInt8(4, 6, 8), PointwiseInt8(4, 8, 6), depthwise((5, 5), 12, 3)]
    for work in refused:
        kernel = find_kernel(work)
        assert kernel is not None
        assert not kernel.configs(work, machine)
    served = PointwiseInt8(4, 8, 8)
    kernel = find_kernel(served)
    assert kernel is not None
    assert kernel.configs(served, machine)
    assert not kernel.configs(served, VectorMachine(8, 16, False))
