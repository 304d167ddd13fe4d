from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stub_bundle import LABELS, PREPROCESSING, stub_logits

from ofa_compile.bundle.bundle import load_bundle, softmax
from ofa_compile.errors import ArtifactError, DeviceError, ImageError, UserInputError


@pytest.fixture
def image(tmp_path: Path, rng: np.random.Generator) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


def test_loads_what_was_built(make_bundle: Any) -> None:
    built = make_bundle()
    loaded = load_bundle(str(built.path))
    assert loaded.manifest == built.manifest
    assert loaded.is_native
    assert "1x3x8x8" in repr(loaded)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_runs(make_bundle: Any, rng: np.random.Generator, count: int) -> None:
    x = rng.standard_normal((count, 3, 8, 8), dtype=np.float32)
    logits = make_bundle().run(x, threads=2)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, stub_logits(x))


def test_library_and_executable_agree(make_bundle: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    bundle = make_bundle()
    np.testing.assert_array_equal(bundle.executable.run(x), bundle.library.run(x))


def test_times(make_bundle: Any) -> None:
    x = np.zeros((1, 3, 8, 8), dtype=np.float32)
    bundle = make_bundle()
    assert bundle.time(x).shape == (50,)
    assert bundle.time(x, repeats=3, threads=2).shape == (3,)
    with pytest.raises(UserInputError, match="repeats must be at least 1"):
        bundle.time(x, repeats=0)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 8, 8)), r"must have shape \(N, 3, 8, 8\), got \(3, 8, 8\)"),
        (np.zeros((1, 3, 8, 9)), "must have shape"),
        (np.zeros((1, 3, 8, 8), dtype=complex), "must be float32, got complex128"),
        (np.full((1, 3, 8, 8), "a"), "must be float32"),
        (np.full((1, 3, 8, 8), np.nan), "not finite"),
    ],
)
def test_wrong_inputs_are_clear_errors(make_bundle: Any, x: np.ndarray, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        make_bundle().run(x)


def test_classifies(make_bundle: Any, image: Path) -> None:
    bundle = make_bundle()
    (best,) = bundle.classify([image], top=2)
    logits = stub_logits(PREPROCESSING.apply(image)[None])
    probabilities = softmax(logits)[0]
    order = np.argsort(-probabilities)[:2]
    assert [c.label for c in best] == [LABELS[i] for i in order]
    np.testing.assert_allclose([c.probability for c in best], probabilities[order])
    assert len(bundle.classify([image], top=99)[0]) == len(LABELS)


def test_classifies_every_kind_of_source(make_bundle: Any, image: Path) -> None:
    bundle = make_bundle()
    picture = Image.open(image)
    pixels = np.asarray(picture)
    results = bundle.classify([image, str(image), picture, pixels])
    assert all(result == results[0] for result in results)
    for single in (image, str(image), picture, pixels):
        assert bundle.classify(single) == results[:1]
    assert bundle.classify([]) == []
    with pytest.raises(ImageError, match="cannot read"):
        bundle.classify([image, image.with_name("absent.png")])
    with pytest.raises(UserInputError, match="top must be at least 1"):
        bundle.classify([image], top=0)


def test_executable_gives_the_same_probabilities(make_bundle: Any, image: Path) -> None:
    bundle = make_bundle()
    ppm = image.with_suffix(".ppm")
    Image.open(image).save(ppm)
    import subprocess

    command = [str(bundle.path / "subnet"), str(ppm), "--json"]
    done = subprocess.run(command, capture_output=True, check=True)
    (result,) = json.loads(done.stdout)["results"]
    (expected,) = bundle.classify(image)
    assert [c["label"] for c in result["classes"]] == [c.label for c in expected]
    np.testing.assert_allclose(
        [c["probability"] for c in result["classes"]],
        [c.probability for c in expected],
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "name", ["subnet", "libsubnet.so", "subnet.onnx", "labels.txt", "subnet.h"]
)
def test_changed_or_missing_file_is_found(make_bundle: Any, name: str) -> None:
    bundle = make_bundle()
    path = bundle.path / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        load_bundle(bundle.path)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"cannot read .*{name}"):
        load_bundle(bundle.path)


def test_what_is_no_bundle_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ArtifactError, match=r"is not a bundle: cannot read manifest\.json"):
            load_bundle(path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ArtifactError, match="it is not text"):
        load_bundle(tmp_path)


def test_foreign_bundle_says_so(make_bundle: Any) -> None:
    bundle = make_bundle()
    document = json.loads((bundle.path / "manifest.json").read_text())
    document["target"].update(name="toaster", arch="riscv64", emulator=None)
    (bundle.path / "manifest.json").write_text(json.dumps(document))
    foreign = load_bundle(bundle.path)
    x = np.zeros((1, 3, 8, 8), dtype=np.float32)
    with pytest.raises(DeviceError, match="for toaster"):
        foreign.run(x)
    with pytest.raises(DeviceError, match=r"the library is for toaster \(riscv64\)"):
        foreign.time(x)
