from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ofa_compile.errors import ArtifactError, DataError
from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord, only_one_kind
from ofa_compile.space.registry import search_space

SPACE = search_space("ofa_mbv3_cifar")


def record(**changes: object) -> LatencyRecord:
    fields: dict[str, object] = {
        "architecture": SPACE.smallest(),
        "target": "host",
        "target_fingerprint": "f00",
        "kind": "measurement",
        "median_ms": 1.5,
        "machine": {"load_average": 0.1},
    }
    return LatencyRecord(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def dataset(tmp_path: Path) -> LatencyDataset:
    return LatencyDataset(tmp_path / "sub" / "latency.jsonl")


def test_round_trip(dataset: LatencyDataset) -> None:
    first, second = record(), record(architecture=SPACE.largest(), spread=0.01, is_converged=True)
    dataset.append(first)
    dataset.append(second)
    assert list(dataset) == [first, second]
    assert json.loads(dataset.path.read_text().splitlines()[0])["schema_version"] == 1


def test_missing_file_is_empty(dataset: LatencyDataset) -> None:
    assert list(dataset) == []


def test_torn_last_line_is_ignored_and_cut_off(dataset: LatencyDataset) -> None:
    dataset.append(record())
    whole = dataset.path.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        dataset.path.write_bytes(whole + whole[:cut])
        assert list(dataset) == [record()]
        dataset.append(record(median_ms=2.0))
        assert [item.median_ms for item in dataset] == [1.5, 2.0]
    dataset.path.write_bytes(whole[:10])
    assert list(dataset) == []
    dataset.append(record())
    assert dataset.path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "no JSON document"),
        ("[1]", "JSON object"),
        ('{"schema_version":9}', "schema version 9"),
        ('{"schema_version":1,"extra":1}', "unknown fields"),
        ('{"schema_version":1,"target":"host"}', "missing fields"),
    ],
)
def test_corrupt_complete_lines_name_file_and_line(
    dataset: LatencyDataset, line: str, words: str
) -> None:
    dataset.append(record())
    with dataset.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ArtifactError, match=words) as caught:
        list(dataset)
    assert f"{dataset.path}, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("kind", "guess", "'measurement' or 'estimate'"),
        ("median_ms", -1.0, "positive"),
        ("median_ms", None, "positive"),
        ("median_ms", True, "positive"),
        ("architecture", {"space": 3}, "architecture"),
    ],
)
def test_bad_values_are_refused(field: str, value: object, words: str) -> None:
    document = {**json.loads(record().to_json()), field: value}
    with pytest.raises((ArtifactError, ValueError), match=words):
        LatencyRecord.from_json(json.dumps(document))


def test_failed_records_need_no_time() -> None:
    failed = record(status="failed", median_ms=None, error="BuildError: no")
    assert LatencyRecord.from_json(failed.to_json()) == failed


def test_selection(dataset: LatencyDataset) -> None:
    wanted = record()
    for item in (
        wanted,
        record(role="reference"),
        record(status="failed", median_ms=None),
        record(kind="estimate"),
        record(target_fingerprint="other"),
    ):
        dataset.append(item)
    assert dataset.records(kind="measurement", target_fingerprint="f00") == [wanted]
    assert len(dataset.records()) == 3


def test_kinds_are_never_mixed() -> None:
    assert only_one_kind([record()]) == "measurement"
    with pytest.raises(DataError, match="estimate and measurement"):
        only_one_kind([record(), record(kind="estimate")])
    with pytest.raises(DataError, match="no records"):
        only_one_kind([])


def test_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot append"):
        LatencyDataset(tmp_path / "file" / "latency.jsonl").append(record())
    with pytest.raises(ArtifactError, match="cannot read"):
        list(LatencyDataset(tmp_path))


def test_full_disk_leaves_whole_lines(
    dataset: LatencyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.append(record())

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(ArtifactError, match="No space left"):
            dataset.append(record(median_ms=9.0))
    assert list(dataset) == [record()]
    dataset.append(record(median_ms=2.0))
    assert len(list(dataset)) == 2


def test_two_writers_keep_their_lines_apart(dataset: LatencyDataset) -> None:
    code = (
        "import sys; from ofa_compile.measurement.dataset import LatencyDataset, LatencyRecord;"
        "line = sys.stdin.read(); data = LatencyDataset(sys.argv[1]);"
        "[data.append(LatencyRecord.from_json(line)) for _ in range(40)]"
    )
    writers = []
    for value in (1.0, 2.0):
        command = [sys.executable, "-c", code, str(dataset.path)]
        writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        assert writer.stdin is not None
        writer.stdin.write(record(median_ms=value).to_json())
        writer.stdin.close()
        writers.append(writer)
    assert [writer.wait() for writer in writers] == [0, 0]
    assert sorted(item.median_ms or 0 for item in dataset) == [1.0] * 40 + [2.0] * 40


def test_record_fields_are_those_of_the_design() -> None:
    names = {item.name for item in dataclasses.fields(LatencyRecord)}
    assert {
        "kind", "architecture", "target_fingerprint", "threads", "batch", "precision",
        "median_ms", "p95_ms", "spread", "versions",
    } <= names  # fmt: skip
