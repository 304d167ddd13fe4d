from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stub_build import missing_tools
from stub_bundle import LABELS, PREPROCESSING, StubCompiler, stub_logits

from ofa_compile.bundle.build import BundleContents
from ofa_compile.bundle.bundle import load_bundle
from ofa_compile.bundle.manifest import MANIFEST_NAME, Figure, content_files
from ofa_compile.bundle.verify import Reference
from ofa_compile.errors import (
    DeviceUnavailableError,
    MissingDependencyError,
    NumericMismatchError,
    UserInputError,
)
from ofa_compile.hardware.platform import LINUX
from ofa_compile.hardware.target_spec import EmulatorSpec, TargetSpec, load_target
from ofa_compile.space.architecture import Architecture


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bundle_is_complete(make_bundle: Any, onnx_path: Path) -> None:
    bundle = make_bundle()
    files = contents_of(bundle.path)
    assert set(files) == {MANIFEST_NAME, *content_files(LINUX)}
    document = json.loads(files["manifest.json"])
    assert document["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != "manifest.json"
    }
    assert files["subnet.onnx"] == onnx_path.read_bytes()
    assert files["labels.txt"].decode().splitlines() == list(LABELS)
    assert f"{document['symbol_prefix']}run(".encode() in files["subnet.h"]
    assert document["network"]["arena_bytes"] == 768
    assert {"linker", "ofa-compile", "apache-tvm"} <= set(document["versions"])
    assert [path.name for path in bundle.path.parent.iterdir()] == ["bundle"]


def test_verification_is_recorded(make_bundle: Any) -> None:
    verification = make_bundle().manifest.verification
    assert verification["verified"] is True
    assert verification["num_inputs"] == 8
    assert verification["max_abs_error"] == 0.0
    assert verification["runner"] == "native"
    assert verification["input_kind"] == "noise"
    assert verification["files"] == ["libsubnet.so", "subnet"]


def test_unverified_bundle_says_so(make_bundle: Any) -> None:
    verification = make_bundle(reference=None).manifest.verification
    assert verification == {"verified": False, "reason": "verification was switched off"}


def test_same_inputs_give_the_same_bytes(make_bundle: Any, tmp_path: Path) -> None:
    first = contents_of(make_bundle(output=tmp_path / "a").path)
    again = contents_of(make_bundle(output=tmp_path / "b" / "c").path)
    assert first == again


def test_architecture_and_figures_are_recorded(make_bundle: Any) -> None:
    architecture = Architecture(
        space="ofa_mbv3_cifar",
        resolution=32,
        depths=(2, 2),
        kernel_sizes=((3, 3), (5, 7)),
        expand_ratios=((3, 4), (6, 6)),
    )
    contents = BundleContents(
        preprocessing=PREPROCESSING,
        architecture=architecture,
        supernet={"name": "n", "weights_hash": "w"},
        network={"macs": 12},
        figures={
            "latency_ms": Figure(value=2.0, kind="estimated", source="core model"),
            "accuracy": Figure(value=0.9, kind="predicted"),
        },
    )
    bundle = load_bundle(make_bundle(contents=contents).path)
    document = bundle.manifest.to_dict()
    assert document["architecture"] == json.loads(architecture.to_json())
    assert document["architecture_hash"] == architecture.hash
    assert document["symbol_prefix"] == f"ofa_{architecture.hash[:12]}_"
    assert document["figures"]["latency_ms"]["kind"] == "estimated"
    assert document["network"]["macs"] == 12
    assert document["labels"] == ["class 0", "class 1", "class 2", "class 3"]


def test_mismatch_publishes_nothing(make_bundle: Any, reference: Reference, tmp_path: Path) -> None:
    wrong = dataclasses.replace(reference, logits=reference.logits + 1e-2)
    with pytest.raises(NumericMismatchError, match=r"differs from the reference by 0\.01"):
        make_bundle(reference=wrong)
    assert list((tmp_path / "out").iterdir()) == []
    old = contents_of(make_bundle().path)
    with pytest.raises(NumericMismatchError):
        make_bundle(reference=wrong)
    assert contents_of(tmp_path / "out" / "bundle") == old
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bundle"]


def test_not_a_number_is_a_mismatch(make_bundle: Any, compiler: StubCompiler) -> None:
    compiler.defines = (*compiler.defines, "-DSTUB_NAN")
    with pytest.raises(NumericMismatchError, match="the binary gives logits that are not finite"):
        make_bundle()


def test_wrong_labels_or_size_publish_nothing(
    make_bundle: Any, contents: BundleContents, tmp_path: Path
) -> None:
    with pytest.raises(UserInputError, match="1 labels for a network of 4 classes"):
        make_bundle(contents=dataclasses.replace(contents, labels=("one",)))
    wide = dataclasses.replace(PREPROCESSING, width=9)
    with pytest.raises(UserInputError, match="preprocessing is for 3x8x9 but"):
        make_bundle(contents=dataclasses.replace(contents, preprocessing=wide))
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_onnx_file_is_a_clear_error(make_bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"cannot read .*absent\.onnx"):
        make_bundle(onnx_path=tmp_path / "absent.onnx")


def test_users_folder_is_refused_before_compiling(make_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UserInputError, match="holds file"):
        make_bundle(output=tmp_path / "mine", onnx_path=tmp_path / "absent.onnx")


def test_missing_emulator_is_found_before_compiling(make_bundle: Any, tmp_path: Path) -> None:
    arm64 = dataclasses.replace(load_target("arm64"), emulator=EmulatorSpec(command=("qemu-none",)))
    if arm64.is_native:
        pytest.skip("this machine needs no emulator for arm64")
    with pytest.raises(MissingDependencyError, match="qemu-none, which is not installed"):
        make_bundle(target=arm64, onnx_path=tmp_path / "absent.onnx")
    with pytest.raises(DeviceUnavailableError, match="cannot run"):
        make_bundle(target=dataclasses.replace(arm64, emulator=None))


@pytest.mark.arm64
def test_arm64_bundle_is_verified_in_the_emulator(
    make_bundle: Any, rng: np.random.Generator
) -> None:
    target: TargetSpec = load_target("arm64")
    if missing_tools("arm64") or target.is_native:
        pytest.skip("no emulator needed or none there")
    bundle = load_bundle(make_bundle(target=target).path)
    assert bundle.manifest.verification["runner"] == "emulator qemu-aarch64 -cpu cortex-a53"
    assert bundle.manifest.verification["files"] == ["subnet"]
    x = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(bundle.run(x), stub_logits(x))
    assert bundle.classify(np.zeros((9, 9, 3), np.uint8), top=1)[0][0].label == "cat"
    header = (bundle.path / "subnet").read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64


def test_executable_needs_nothing_from_python(make_bundle: Any) -> None:
    bundle = make_bundle()
    done = subprocess.run(
        [str(bundle.path / "subnet"), "--info", "--json"], capture_output=True, check=True, env={}
    )
    assert json.loads(done.stdout)["output_shape"] == [1, 4]
