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


def test_shards_share_a_sample_and_a_file(weights: Path, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "accuracy.jsonl"

    def run(shard: tuple[int, int]) -> int:
        options = EvaluateOptions(
            data=photos, supernet=str(weights), part="test", count=6, dataset=path, limit=10,
            shard=shard,
        )  # fmt: skip
        return evaluate(options)["num_subnets"]

    counts = [run((rank, 2)) for rank in range(2)]
    lines = path.read_text(encoding="utf-8").splitlines()
    assert min(counts) > 0
    assert sum(counts) == len(lines) == 6
    assert len({json.dumps(json.loads(line)["architecture"]) for line in lines}) == 6
    # Together they are what one process evaluates: nothing is left to do.
    assert run((0, 1)) == 6
    assert path.read_text(encoding="utf-8").splitlines() == lines
    with pytest.raises(DataError, match="shard 9/20 has none of the 6 subnets"):
        run((9, 20))


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
