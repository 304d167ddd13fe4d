"""`compile`, `run`, `export` and `search` through the command line, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ofa_compile as ofa
from ofa_compile.cli.app import run_app
from ofa_compile.space import Architecture


def compile_arguments(weights: Path, accuracy_predictor: Path, output: Path) -> list[str]:
    return [
        *("--supernet", str(weights), "--no-calibration", "--output", str(output)),
        *("--accuracy-predictor", str(accuracy_predictor), "--quiet"),
    ]


def test_compile_then_run(
    weights: Path,
    accuracy_predictor: Path,
    smallest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "bundle"
    arguments = compile_arguments(weights, accuracy_predictor, output)
    architecture = ["--architecture", str(smallest)]
    assert run_app(["--target", "host", *arguments, *architecture, "--json"]) == 0
    out, err = capsys.readouterr()
    manifest = json.loads(out)
    assert err == ""
    assert manifest == json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["verification"]["verified"] is True
    assert manifest["figures"]["latency_ms"]["kind"] == "estimated"

    image = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    pair = ["--image", str(image), "--image", str(image)]
    assert run_app(["run", str(output), *pair, "--top", "3", "--json"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert len(images) == 2
    assert images[0] == images[1]
    assert [set(c) for c in images[0]["classes"]] == [{"index", "label", "probability"}] * 3
    assert run_app(["run", str(output), "--image", str(image)]) == 0
    assert capsys.readouterr().out.startswith("image      class  probability\nphoto.png  ")
    image.write_bytes(b"no image")
    assert run_app(["run", str(output), "--image", str(image)]) == 2
    assert "photo.png" in capsys.readouterr().err


def test_a_batch_is_compiled_and_every_place_of_it_checked(
    weights: Path,
    accuracy_predictor: Path,
    smallest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "bundle"
    arguments = [*compile_arguments(weights, accuracy_predictor, output), "--batch", "9"]
    architecture = ["--architecture", str(smallest), "--json"]
    assert run_app(["--target", "host", *arguments, *architecture]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["verification"]["num_inputs"] == 9
    # What predicts one image says nothing about nine.
    assert "latency_ms" not in manifest["figures"]
    bundle = ofa.load_bundle(output)
    shape, classes = bundle.manifest.input_shape, bundle.manifest.output_shape[1]
    assert (shape[0], bundle.manifest.output_shape[0]) == (9, 9)
    assert bundle.run(np.random.default_rng(0).random((2, *shape[1:]))).shape == (2, classes)
    assert run_app(["--target", "host", *arguments, "--max-latency-ms", "5"]) == 2
    assert "no predictor of the median latency of batch 9" in capsys.readouterr().err


def test_summary_labels_every_figure(
    weights: Path,
    accuracy_predictor: Path,
    smallest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = compile_arguments(weights, accuracy_predictor, tmp_path / "bundle")
    arguments += ["--architecture", str(smallest), "--no-verify"]
    assert run_app(["compile", "--target", "host", *arguments]) == 0
    out = capsys.readouterr().out
    assert "% (predicted)" in out
    assert "(estimated)" in out
    assert "verified" in out
    assert "no: verification was switched off" in out


def test_infeasible_limit_exits_with_7_and_leaves_nothing(
    weights: Path, accuracy_predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bundle"
    arguments = compile_arguments(weights, accuracy_predictor, output)
    assert run_app(["--target", "host", *arguments, "--max-macs", "1000"]) == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert "the least reachable is" in err
    assert not output.exists()


def test_missing_cross_compiler_exits_with_3(
    weights: Path,
    accuracy_predictor: Path,
    smallest: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ofa_compile.hardware import toolchain

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    arguments = compile_arguments(weights, accuracy_predictor, tmp_path / "bundle")
    assert run_app(["--target", "host", *arguments, "--architecture", str(smallest)]) == 3
    assert "hint: sudo apt-get install gcc" in capsys.readouterr().err


def test_architecture_outside_the_space(
    weights: Path, accuracy_predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.json"
    path.write_text('{"space": "ofa_mbv3_cifar", "resolution": 33, "depths": [9]}', "utf-8")
    arguments = compile_arguments(weights, accuracy_predictor, tmp_path / "bundle")
    assert run_app(["--target", "host", *arguments, "--architecture", str(path)]) == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compile", "measure"])
def test_precision_that_a_core_lacks(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = {"compile": "--output", "measure": "--workspace"}[command]
    words = [command, "--target", "cortex-a53", "--precision", "fp16", folder, str(tmp_path / "x")]
    assert run_app(words) == 2
    err = capsys.readouterr().err
    assert "cortex-a53 cannot compute in fp16" in err
    assert "hint: compile with --precision fp32" in err


def test_search_writes_the_front(
    accuracy_predictor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--accuracy-predictor", str(accuracy_predictor), "--max-evaluations", "2000"]
    arguments += ["--output", str(tmp_path / "front"), "--quiet"]
    assert run_app(["search", "--target", "arm64", *arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["best"]["latency_kind"] == "estimate"
    assert document["estimate_limits"].startswith("estimates know no caches, memory or branches")
    assert document == json.loads((tmp_path / "front/front.json").read_text(encoding="utf-8"))
    for member in document["front"]:
        architecture = Architecture.from_dict(member["architecture"])
        path = tmp_path / "front" / f"{architecture.short_hash}.json"
        assert Architecture.from_file(path) == architecture
    assert run_app(["search", "--target", "arm64", *arguments]) == 0
    out = capsys.readouterr().out
    assert "arm64 ms (estimate)" in out
    assert "\nnote: estimates know no caches" in out
    assert "\nbest" in out


def test_export(
    weights: Path, smallest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.onnx"
    arguments = ["--supernet", str(weights), "--no-calibration", "--output", str(output)]
    assert run_app(["export", *arguments, "--architecture", str(smallest), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert Architecture.from_dict(document["architecture"]) == Architecture.from_file(smallest)
    assert output.is_file()
    assert run_app(["export", *arguments[:2], "--output", str(output)]) == 2
    assert "--calibration-data" in capsys.readouterr().err


def test_supernet_info(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["supernet", "info", str(weights), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["space"], document["num_classes"]) == ("ofa_mbv3_cifar", 10)
    assert document["labels"] == list("abcdefghij")


def test_measuring_a_foreign_target_needs_a_board(capsys: pytest.CaptureFixture[str]) -> None:
    from ofa_compile.hardware.target_spec import load_target

    if load_target("arm64").is_native:
        pytest.skip("arm64 is native here")
    assert run_app(["measure", "--target", "arm64", "--count", "1"]) == 4
    assert "cannot run code for 'arm64'" in capsys.readouterr().err
