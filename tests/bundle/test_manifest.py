from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from ofa_compile.bundle.manifest import Figure, Manifest, check_labels
from ofa_compile.bundle.preprocess import Preprocessing
from ofa_compile.errors import ArtifactError, UserInputError


@pytest.fixture
def manifest() -> Manifest:
    preprocessing = Preprocessing(height=8, width=8, mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
    return Manifest(
        input_shape=(1, 3, 8, 8),
        output_shape=(1, 2),
        preprocessing=preprocessing,
        labels=("cat", "猫"),
        symbol_prefix="ofa_x_",
        target={"name": "host", "arch": "x86_64"},
        architecture={"space": "s"},
        architecture_hash="ab",
        supernet={"name": "n", "weights_hash": "cd"},
        network={"macs": 7},
        figures={"latency_ms": Figure(value=1.5, kind="estimated", source="core model")},
        verification={"verified": True},
        versions={"onnx": "1"},
        files={"subnet": {"sha256": "ef", "bytes": 3}},
    )


def test_survives_json(manifest: Manifest) -> None:
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()


def test_document_says_what_the_input_must_be(manifest: Manifest) -> None:
    document = json.loads(manifest.to_json())
    assert document["schema_version"] == 1
    assert document["input"]["shape"] == [1, 3, 8, 8]
    assert document["input"]["mean"] == [0.1, 0.2, 0.3]
    assert document["input"]["channel_order"] == "RGB"
    assert document["figures"]["latency_ms"]["kind"] == "estimated"
    assert "猫" in manifest.to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '{"format": "other"}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match=r"not valid JSON|not the manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_other_schema_version_is_refused(manifest: Manifest, version: Any) -> None:
    document = {**manifest.to_dict(), "schema_version": version}
    with pytest.raises(ArtifactError, match=r"schema version .*this release reads 1"):
        Manifest.from_json(json.dumps(document))


def test_each_missing_part_is_an_error(manifest: Manifest) -> None:
    for key in manifest.to_dict():
        document = manifest.to_dict()
        del document[key]
        with pytest.raises(ArtifactError):
            Manifest.from_json(json.dumps(document))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("input", "shape"), [1, 3, 8]),
        (("input", "shape"), [1, 3, 8, 0]),
        (("input", "shape"), "1388"),
        (("input", "mean"), [1]),
        (("input", "std"), [0, 0, 0]),
        (("output",), None),
        (("labels",), 3),
        (("labels",), ["only one"]),
        (("labels",), "ab"),
        (("figures", "latency_ms", "kind"), "guessed"),
        (("figures", "latency_ms"), {"kind": "measured"}),
        (("files",), {"../../etc/passwd": {"sha256": "", "bytes": 1}}),
        (("files",), {"..": {"sha256": "", "bytes": 1}}),
        (("files",), {"subnet": {}}),
        (("target",), "host"),
    ],
)
def test_damage_is_a_clear_error(manifest: Manifest, path: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(manifest.to_dict())
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ArtifactError, match=r"m\.json is damaged"):
        Manifest.from_json(json.dumps(document), "m.json")


def test_figures_must_say_what_they_are() -> None:
    with pytest.raises(UserInputError, match="predicted, estimated or measured, not 'guess'"):
        Figure(value=1.0, kind="guess")  # type: ignore[arg-type]
    with pytest.raises(UserInputError, match="finite"):
        Figure(value=float("nan"), kind="measured")


def test_labels_are_checked() -> None:
    assert check_labels((), 2) == ("class 0", "class 1")
    assert check_labels(["a", "日本"], 2) == ("a", "日本")
    with pytest.raises(UserInputError, match="3 labels for a network of 2 classes"):
        check_labels(["a", "b", "c"], 2)
    for bad in ("", "two\nlines", "nul\0", "\ud800"):
        with pytest.raises(UserInputError, match="label 1 is"):
            check_labels(["a", bad], 2)
