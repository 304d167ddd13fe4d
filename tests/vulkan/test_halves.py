"""float16 on a Vulkan device: kernels, whole networks, and devices that cannot."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cases import ALL
from launches import MACHINE, check
from onnx_nets import mobile_net, reference

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.bundle.network_meta import render_network_meta
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.verify import tolerance_of
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import TargetSpec

pytestmark = pytest.mark.vulkan
HALVES = dataclasses.replace(MACHINE, value_type="float16")


@pytest.mark.parametrize("name", ALL)
def test_kernels_agree_with_numpy(
    name: str, vulkan: TargetSpec, tmp_path: Path, cache: Cache, rng: np.random.Generator
) -> None:
    check(ALL[name], vulkan, tmp_path, cache, rng, HALVES)


def test_a_network_is_right_and_the_layer_silent(
    tmp_path: Path,
    vulkan: TargetSpec,
    cache: Cache,
    rng: np.random.Generator,
    failing_loader: dict[str, str],
) -> None:
    path = mobile_net().save(tmp_path / "net.onnx")
    meta = render_network_meta(
        Preprocessing(height=24, width=20, mean=(0, 0, 0), std=(1, 1, 1)), list("abcde")
    )
    compiled = compile_onnx(
        path,
        target_in(vulkan, "fp16"),
        tmp_path / "out",
        symbol_prefix="ofa_h_",
        network_meta=meta,
        cache=cache,
    )
    x = rng.standard_normal((1, 3, 24, 20), dtype=np.float32)
    with NativeLibrary(compiled.library, "ofa_h_") as library:
        expected = reference(path, x)
        error = np.abs(library.run(x) - expected).max() / np.abs(expected).max()
    assert 1e-6 < error <= tolerance_of("fp16")  # halves, and no more wrong than that
    assert compiled.executable is not None
    done = subprocess.run(
        [str(compiled.executable), "--benchmark", "1", "--warmup", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "VK_INSTANCE_LAYERS": "VK_LAYER_KHRONOS_validation"},
    )
    assert done.returncode == 0, done.stderr
    assert "VUID" not in done.stdout + done.stderr
    # A device that does not say that it has halves is not taken for one that has.
    done = subprocess.run(
        [str(compiled.executable), "--benchmark", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            **failing_loader,
            "OFA_FAILING_CALL": "vkGetPhysicalDeviceFeatures2",
            "OFA_FAILING_RESULT": "0",
        },
    )
    assert done.returncode == 4
    assert "does not compute in float16" in done.stderr
