"""Whole networks on halves in QEMU, against the same network in float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx_nets import Net, reference

from ofa_compile.bundle.build import BundleContents, build_bundle
from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.bundle.verify import Reference
from ofa_compile.cache import Cache
from ofa_compile.compiler.build import compile_onnx
from ofa_compile.errors import CompilationError, NumericMismatchError
from ofa_compile.hardware.precision import target_in
from ofa_compile.hardware.target_spec import EmulatorSpec, TargetSpec, load_target

SHAPE = (1, 3, 10, 10)
LOOKS = Preprocessing(height=10, width=10, mean=(0.5,) * 3, std=(0.25,) * 3)
CONTENTS = BundleContents(preprocessing=LOOKS)


@pytest.fixture(scope="module")
def target(runnable: Callable[[TargetSpec], TargetSpec]) -> TargetSpec:
    """Return a core with arithmetic on halves, run as the widest that the emulator knows."""
    found = runnable(target_in(load_target("cortex-a76"), "fp16"))
    widest = EmulatorSpec(command=("qemu-aarch64", "-cpu", "max"))
    return dataclasses.replace(found, emulator=widest)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


def small_net() -> Net:
    """Squeeze-excite, and an operator that no kernel of ours serves."""
    net = Net(SHAPE)
    net.conv((3, 16), strides=[2, 2])
    net.op("HardSwish")
    net.conv((16, 16), 5, group=16)
    net.op("Tanh")
    net.squeeze_excite(16, 4)
    net.classifier(16)
    return net


@pytest.mark.arm64
def test_a_bundle_is_near_float32(target: TargetSpec, tmp_path: Path, cache: Cache) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    inputs = np.random.default_rng(1).standard_normal((3, *SHAPE[1:]), dtype=np.float32)
    logits = np.concatenate([reference(path, x[None]) for x in inputs])
    expected = Reference(inputs=inputs, logits=logits)
    build_bundle(path, target, tmp_path / "out", CONTENTS, reference=expected, cache=cache)
    bundle = load_bundle(tmp_path / "out")
    assert bundle.manifest.precision == "fp16"
    assert bundle.manifest.quantisation is None
    verification = bundle.manifest.verification
    assert verification["tolerance"] == 0.03
    assert 1e-5 < verification["relative_error"] < 0.01  # more than float32 has, and little
    assert verification["runner"] == "emulator qemu-aarch64 -cpu max"
    assert bundle.run(inputs[:1]).dtype == np.float32
    wrong = dataclasses.replace(expected, logits=logits + 0.05 * np.abs(logits).max())
    with pytest.raises(NumericMismatchError, match=r"0\.03 of it is allowed"):
        build_bundle(path, target, tmp_path / "out", CONTENTS, reference=wrong, cache=cache)


def test_maps_and_weights_are_halves(target: TargetSpec, tmp_path: Path, cache: Cache) -> None:
    path = small_net().save(tmp_path / "net.onnx")
    half = compile_onnx(path, target, tmp_path / "half", cache=cache)
    whole = compile_onnx(path, load_target("cortex-a76"), tmp_path / "whole", cache=cache)
    assert half.weights_bytes < 0.7 * whole.weights_bytes  # each is rounded up to 64 bytes
    casts = [
        step["workload"]["destination"] for step in half.steps if step["workload"]["kind"] == "cast"
    ]
    # The input; before and behind the operator that stays in float32; the output.
    assert casts == ["float16", "float32", "float16", "float32"]


def test_a_weight_beyond_halves_is_refused(
    target: TargetSpec, tmp_path: Path, cache: Cache
) -> None:
    net = Net(SHAPE)
    net.op("Conv", net.last, np.full((4, 3, 1, 1), 1e5, np.float32))
    net.classifier(4)
    path = net.save(tmp_path / "net.onnx")
    with pytest.raises(CompilationError, match="weight of 100000 is beyond float16") as caught:
        compile_onnx(path, target, tmp_path / "out", cache=cache)
    assert caught.value.hint == "compile with --precision fp32"
