"""The kernels on every emulated target that `MACHINES` does not stand for already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from kernel_harness import Machine
from test_convolution import convolution
from test_depthwise import depthwise

from ofa_compile.compiler.workload import GlobalPool, Pointwise, ScaleChannels
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.target_spec import TargetSpec, list_targets, load_target
from ofa_compile.hardware.toolchain import find_linker

# Every core gets a run of its own instruction selection; the two that are slow in QEMU are enough
# to keep among the quick tests, since they differ most from the rest.
QUICK = {"armv7", "riscv64"}
# A WebAssembly engine has no pages to guard buffers with and checks the types of indirect calls,
# and the driver relies on both: its kernels are tested in whole bundles (test_other_platforms.py).
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name, target in ((name, load_target(name)) for name in list_targets())
    if target.emulator is not None and not target.platform.is_hosted and name != "arm64"
]


def why_not(target: TargetSpec) -> str | None:
    try:
        find_linker(target)
        find_emulator(target)
    except MissingDependencyError as err:
        return f"{err}; {err.hint}"
    return None


@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_right(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    target = load_target(name)
    reason = why_not(target)
    if reason is not None:
        pytest.skip(reason)
    Machine(target, tmp_path).check(
        Pointwise(13, 24, 21, "hswish"),
        Pointwise(61, 7, 40, "relu6", has_residual=True),
        Pointwise(1, 20, 33, "hsigmoid"),
        depthwise((9, 11), 6, 3, activation="hswish"),
        depthwise((7, 7), 5, 5, 2, activation="relu"),
        convolution(11, (3, 10), 3, 2, input_layout="nchw", activation="hswish"),
        convolution((5, 6), (5, 9), activation="relu"),
        GlobalPool(1, 9, 21),
        ScaleChannels(1, 9, 37),
        rng=rng,
    )
