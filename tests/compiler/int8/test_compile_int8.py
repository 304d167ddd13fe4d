"""Whole networks in int8 on this machine, against the reference of the quantised graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from int8_nets import block_net
from numpy.typing import NDArray

from ofa_compile.bundle.executor import Executable
from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.compiler.int8.prepare import Calibration, given_images, quantised_logits
from ofa_compile.errors import TargetSpecError, UserInputError
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec, load_target

Images = NDArray[np.float32]


@pytest.fixture
def int8_host() -> TargetSpec:
    try:
        return target_in(load_target("host"), "int8")
    except TargetSpecError as err:
        pytest.skip(str(err))


@pytest.fixture(
    params=[
        "host",
        "x86-64",
        *(pytest.param(n, marks=pytest.mark.arm64) for n in ("cortex-a76", "cortex-a53")),
    ]
)
def target(
    request: pytest.FixtureRequest, runnable: Callable[[TargetSpec], TargetSpec]
) -> TargetSpec:
    """Return cores with dot products of uint8 and int8, of int16, of int8, and without any."""
    return runnable(target_in(load_target(request.param), "int8"))


def test_the_binary_is_the_reference(
    target: TargetSpec, images: Images, tmp_path: Path, rng: np.random.Generator
) -> None:
    path, cache = block_net().save(tmp_path / "net.onnx"), Cache(tmp_path / "cache")
    looks = Preprocessing(height=12, width=12, mean=(0.0,) * 3, std=(1.0,) * 3)
    calibration = given_images(images)
    compiled = compile_onnx(
        path,
        target,
        tmp_path / "out",
        network_meta=render_network_meta(looks, ()),
        cache=cache,
        calibration=calibration,
    )
    assert compiled.layers == {"int8": 6, "fp32": 1}
    kinds = {step["workload"]["kind"] for step in compiled.steps}
    assert kinds >= {
        "pointwise_int8", "depthwise_int8", "global_pool_int8", "scale_channels_int8", "quantise",
    }  # fmt: skip
    x = 1.5 * rng.standard_normal((5, 3, 12, 12), dtype=np.float32)  # beyond what was calibrated
    expected = quantised_logits(path, target, calibration, x, cache)
    assert compiled.executable is not None
    emulator = [] if target.is_native else find_emulator(target) or []
    program = Executable(compiled.executable, expected.shape[1], emulator)
    np.testing.assert_allclose(program.run(x), expected, rtol=1e-4, atol=1e-4)
    if target.is_native:
        with NativeLibrary(compiled.library, "ofa_subnet_") as library:
            library.set_threads(2)
            np.testing.assert_allclose(library.run(x), expected, rtol=1e-4, atol=1e-4)


def test_ranges_are_observed_once(int8_host: TargetSpec, images: Images, tmp_path: Path) -> None:
    path, cache = block_net().save(tmp_path / "net.onnx"), Cache(tmp_path / "cache")
    calls = []

    def load() -> Images:
        calls.append(1)
        return images

    calibration = Calibration("some images", "images", load)
    quantised_logits(path, int8_host, calibration, images[:2], cache)
    compile_onnx(path, int8_host, tmp_path / "out", cache=cache, calibration=calibration)
    assert len(calls) == 1
    other = Calibration("other images", "images", load)
    compile_onnx(path, int8_host, tmp_path / "out", cache=cache, calibration=other)
    assert len(calls) == 2


def test_int8_needs_images(int8_host: TargetSpec, tmp_path: Path) -> None:
    path = block_net().save(tmp_path / "net.onnx")
    with pytest.raises(UserInputError, match="needs images to calibrate on"):
        compile_onnx(path, int8_host, tmp_path / "out", cache=Cache(tmp_path / "cache"))
