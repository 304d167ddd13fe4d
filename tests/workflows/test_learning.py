from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ofa_compile.errors import DataError, UserInputError
from ofa_compile.options import EvaluateOptions
from ofa_compile.space import search_space
from ofa_compile.workflows.learning import evaluate


def test_one_architecture_on_the_test_images(weights: Path, photos: Path, tmp_path: Path) -> None:
    smallest = search_space("ofa_mbv3_cifar").smallest()
    path = tmp_path / "arch.json"
    path.write_text(smallest.to_json(), encoding="utf-8")
    report = evaluate(
        EvaluateOptions(data=photos, supernet=str(weights), part="test", architecture=path)
    )
    assert report["architecture"] == smallest.to_dict()
    assert (report["data"], report["num_images"]) == ("test", 20)
    assert 0.0 <= report["top1"] <= 1.0


def test_samples_go_into_a_data_set_that_a_second_run_continues(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    path = tmp_path / "accuracy.jsonl"

    def run(count: int) -> dict[str, object]:
        options = EvaluateOptions(
            data=photos, supernet=str(weights), part="test", count=count, dataset=path, limit=10
        )
        return evaluate(options)

    assert run(2)["num_subnets"] == 2
    first = path.read_text(encoding="utf-8")
    report = run(3)
    assert report["num_subnets"] == 3
    assert path.read_text(encoding="utf-8").startswith(first)
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [record["num_images"] for record in records] == [10, 10, 10]


def test_held_out_images_are_those_that_training_left(weights: Path, photos: Path) -> None:
    options = EvaluateOptions(data=photos, supernet=str(weights), held_out=5000)
    with pytest.raises(DataError, match="has 40 training images, so training cannot have held"):
        evaluate(options)


def test_only_held_out_images_are_turned(weights: Path, photos: Path) -> None:
    options = EvaluateOptions(data=photos, supernet=str(weights), part="test", view=1)
    with pytest.raises(UserInputError, match="view 1 of the test images"):
        evaluate(options)


def test_other_classes_than_the_supernets_are_refused(weights: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "zebra").mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / "zebra" / "1.png")
    with pytest.raises(DataError, match="has the classes zebra; the supernet others"):
        evaluate(EvaluateOptions(data=tmp_path, supernet=str(weights), part="test"))
