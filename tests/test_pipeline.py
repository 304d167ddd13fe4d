"""The main job's joints: choosing, caching, verifying, and the public `compile`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ofa_compile as ofa
from ofa_compile.cli.app import run_app
from ofa_compile.errors import NumericMismatchError, UserInputError
from ofa_compile.options import CompileOptions
from ofa_compile.pipeline import compile_bundle

SPACE = "ofa_mbv3_cifar"


@pytest.fixture(scope="module")
def fresh_supernet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained weights: all that matters here is that both sides compute the same."""
    from ofa_compile.supernet import load_supernet, save_supernet

    supernet = load_supernet(None, space=SPACE, seed=1)
    supernet.metadata["labels"] = [f"label {n}" for n in range(10)]
    path = tmp_path_factory.mktemp("supernet") / "fresh.safetensors"
    save_supernet(supernet, path)
    return path


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("architecture") / "smallest.json"
    path.write_text(ofa.search_space(SPACE).smallest().to_json(), encoding="utf-8")
    return path


@pytest.fixture
def options(fresh_supernet: Path, smallest: Path, tmp_path: Path) -> CompileOptions:
    return CompileOptions(
        target="x86-64" if sys.platform == "linux" else "host",
        output=tmp_path / "bundle",
        supernet=str(fresh_supernet),
        architecture=smallest,
        no_calibration=True,
    )


@pytest.fixture(autouse=True)
def _needs_x86(options: CompileOptions) -> None:
    if not ofa.load_target(options.target).is_native:
        pytest.skip(f"this machine cannot run code for {options.target}")


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_bundle_is_verified_and_says_what_it_is(options: CompileOptions) -> None:
    bundle = compile_bundle(options)
    manifest = json.loads((options.output / "manifest.json").read_text(encoding="utf-8"))
    verification = manifest["verification"]
    assert verification["verified"]
    assert verification["num_inputs"] >= 8
    assert verification["max_abs_error"] <= 1e-4 * verification["max_abs_logit"]
    assert manifest["architecture"]["space"] == SPACE
    assert manifest["figures"]["latency_ms"]["kind"] == "estimated"
    assert manifest["supernet"]["calibration"] == "none"
    assert bundle.manifest.labels[3] == "label 3"
    x = np.random.default_rng(0).standard_normal((2, *bundle.manifest.input_shape[1:]))
    assert bundle.run(x.astype(np.float32)).shape == (2, 10)


@pytest.mark.parametrize("threads", [None, 3])
def test_executable_has_the_targets_cores_unless_told(
    options: CompileOptions, threads: int | None
) -> None:
    """Its pool starts that many; so does a run without --threads."""
    compile_bundle(dataclasses.replace(options, threads=threads))
    command = [str(options.output / "subnet"), "--benchmark", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cores = ofa.load_target(options.target).core.cores
    assert json.loads(done.stdout)["benchmark"]["threads"] == (threads or cores)


def test_second_build_is_identical_and_imports_neither_torch_nor_tvm(
    options: CompileOptions, tmp_path: Path
) -> None:
    compile_bundle(options)
    first = hashes(options.output)
    code = (
        "import sys; from ofa_compile.cli.app import run_app; code = run_app(sys.argv[1:]);"
        "assert not {'torch', 'tvm', 'xgboost'} & set(sys.modules), 'heavy import'; sys.exit(code)"
    )
    again = tmp_path / "again"
    arguments = ["compile", "--target", options.target, "--supernet", options.supernet]
    arguments += ["--architecture", str(options.architecture), "--no-calibration", "--quiet"]
    subprocess.run([sys.executable, "-c", code, *arguments, "--output", str(again)], check=True)
    assert hashes(again) == first


def test_wrong_numbers_leave_no_bundle(
    options: CompileOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ofa_compile.workflows import prepared_subnet

    def wrong(module: object, inputs: np.ndarray) -> np.ndarray:
        return np.ones((len(inputs), 10), np.float32)

    monkeypatch.setattr("ofa_compile.supernet.compute_logits", wrong)
    monkeypatch.setattr(prepared_subnet.Cache, "get", lambda *_: None)
    with pytest.raises(NumericMismatchError, match="differs from the reference"):
        compile_bundle(options)
    assert not options.output.exists()
    assert not list(options.output.parent.glob(".*staging*"))


def test_no_verify_is_recorded(options: CompileOptions, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compile", "--target", options.target, "--supernet", options.supernet]
    arguments += ["--architecture", str(options.architecture), "--no-calibration", "--json"]
    assert run_app([*arguments, "--no-verify", "--output", str(options.output)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verification"]["verified"] is False


def test_foreign_supernet_needs_calibration_data(
    options: CompileOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compile", "--target", options.target, "--supernet", options.supernet]
    arguments += ["--architecture", str(options.architecture), "--output", str(options.output)]
    assert run_app(arguments) == 2
    assert "--no-calibration" in capsys.readouterr().err
    assert not options.output.exists()


def test_resolution_outside_the_sampled_ones(options: CompileOptions) -> None:
    import dataclasses

    bundle = compile_bundle(dataclasses.replace(options, resolution=36))
    assert bundle.manifest.input_shape == (1, 3, 36, 36)
    assert "latency_ms" not in bundle.manifest.figures


def test_public_compile_takes_modules_and_onnx_files(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()
    with pytest.raises(UserInputError, match="resolution"):
        ofa.compile(module, target="x86-64", output=tmp_path / "a")
    bundle = ofa.compile(module, target="x86-64", output=tmp_path / "a", resolution=20)
    x = np.random.default_rng(0).standard_normal((3, 3, 20, 20)).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(bundle.run(x), expected, rtol=1e-4, atol=1e-5)
    assert bundle.time(x[:1], repeats=5).shape == (5,)
    ofa.export_onnx(module, tmp_path / "net.onnx", resolution=20)
    from_file = ofa.compile(tmp_path / "net.onnx", target="x86-64", output=tmp_path / "b")
    np.testing.assert_array_equal(from_file.run(x), bundle.run(x))


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x07\x12"])
def test_public_compile_refuses_damaged_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(UserInputError, match=r"net\.onnx"):
        ofa.compile(path, target="x86-64", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
