"""The tuning database: what it keeps, what it refuses, and what it survives."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from ofa_compile.compiler.workload import Depthwise, Pointwise
from ofa_compile.errors import ArtifactError
from ofa_compile.tuning.database import TuningDatabase, TuningRecord, TuningResults

POINTWISE = Pointwise(49, 24, 40, "relu")
DEPTHWISE = Depthwise(1, 7, 7, (3, 3), (1, 1), (1, 1, 1, 1), 24)


def record(time_us: float = 3.5, **changes: object) -> TuningRecord:
    values: dict[str, object] = {
        "workload": POINTWISE,
        "config": {"vectors": 2, "rows": 7},
        "fingerprint": "machine",
        "code": "kernels",
        "status": "ok",
        "time_us": time_us,
    }
    return TuningRecord(**{**values, **changes})  # type: ignore[arg-type]


def test_records_survive_the_file(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "deep" / "tuning.jsonl")
    written = [
        record(),
        record(workload=DEPTHWISE, config={"outputs": 7}, is_default=True, roofline_share=0.5),
        record(status="wrong", time_us=None, error="off by 3"),
    ]
    database.append(written[:1])
    database.append(written[1:])
    assert list(database) == written


def test_the_best_is_the_fastest_right_and_latest_one(tmp_path: Path) -> None:
    results = TuningResults(
        [
            record(9.0),
            record(3.0, config={"vectors": 1, "rows": 7}),
            record(1.0, config={"vectors": 3, "rows": 7}, status="wrong"),
        ]
    )
    best = results.best(POINTWISE)
    assert best is not None
    assert best.config == {"vectors": 1, "rows": 7}
    results.add(record(2.0))
    assert results.configs() == {POINTWISE.key: {"vectors": 2, "rows": 7}}
    assert results.best(DEPTHWISE) is None
    assert len(results.tried(POINTWISE)) == 3


def test_the_default_stays_where_another_is_better_by_noise_only() -> None:
    default = record(2.03, config={"vectors": 1, "rows": 7}, is_default=True)
    assert TuningResults([default, record(2.0)]).configs() == {POINTWISE.key: default.config}
    assert TuningResults([default, record(1.9)]).configs() == {POINTWISE.key: record().config}
    failed = record(1.0, status="crash", is_default=True)
    assert TuningResults([failed, record(1.9)]).configs() == {POINTWISE.key: record().config}


def test_only_records_of_this_machine_and_these_kernels_count(tmp_path: Path) -> None:
    database = TuningDatabase(tmp_path / "tuning.jsonl")
    other_config = {"vectors": 1, "rows": 7}
    database.append(
        [
            record(5.0),
            record(1.0, config=other_config, fingerprint="another machine"),
            record(1.0, config=other_config, code="older kernels"),
        ]
    )
    assert database.results("machine", "kernels").configs() == {
        POINTWISE.key: {"vectors": 2, "rows": 7}
    }


def test_a_torn_last_line_is_reported_and_cut_by_the_next_append(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = TuningDatabase(tmp_path / "tuning.jsonl")
    database.append([record()])
    with database.path.open("ab") as file:
        file.write(record(7.0).to_json().encode()[:50])
    assert list(database) == [record()]
    assert "ends in half a record" in caplog.text
    database.append([record(2.0)])
    assert list(database) == [record(), record(2.0)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{nonsense", "not a tuning record"),
        ("[]", "not a tuning record"),
        (record().to_json().replace('"schema_version":1', '"schema_version":2'), "version 2"),
        (record().to_json().replace('"status":"ok"', '"status":"fine"'), "'fine'"),
        (record().to_json().replace('"time_us":3.5', '"time_us":-3'), "got -3"),
        (record().to_json().replace('"rows":49', '"lines":49'), "fields of a pointwise"),
        (record().to_json().replace('"vectors":2', '"vectors":"two"'), "'two'"),
    ],
)
def test_a_corrupted_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "tuning.jsonl"
    path.write_text(f"{record().to_json()}\n{line}\n{record().to_json()}\n", encoding="utf-8")
    with pytest.raises(ArtifactError, match=f"line 2: .*{words}") as caught:
        list(TuningDatabase(path))
    assert "delete that line" in str(caught.value.hint)


def test_a_full_disk_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = TuningDatabase(tmp_path / "tuning.jsonl")
    database.append([record()])
    before = database.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left on device"):
        database.append([record(2.0), record(1.0)])
    assert database.path.read_bytes() == before


def _write_many(path: Path, name: str) -> None:
    database = TuningDatabase(path)
    for number in range(100):
        database.append([record(number + 1.0, fingerprint=name)] * 2)


def test_two_tuners_may_share_a_database(tmp_path: Path) -> None:
    path = tmp_path / "tuning.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 400
    for name in ("one", "two"):
        times = [json.loads(x)["time_us"] for x in lines if json.loads(x)["fingerprint"] == name]
        assert times == [n + 1.0 for n in range(100) for _ in range(2)]
