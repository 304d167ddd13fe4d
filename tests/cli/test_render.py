from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ofa_compile.cli.render import Output, percent, table


def test_table_aligns_numbers_right() -> None:
    text = table(("name", "ms"), [("a", 1.5), ("long name", 10.25), ("c", None)])
    assert text.splitlines() == [
        "name           ms",
        "a           1.500",
        "long name  10.250",
        "c               -",
    ]


def test_table_without_rows_is_its_header() -> None:
    assert table(("a", "b"), []) == "a  b"


def test_percent() -> None:
    assert percent(0.8234) == "82.3 %"


def test_json_takes_numpy_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"a": np.float32(1.5), "b": np.arange(2), "c": Path("x")}
    Output(as_json=True).result(document, "text")
    assert json.loads(capsys.readouterr().out) == {"a": 1.5, "b": [0, 1], "c": "x"}


def test_stray_prints_do_not_spoil_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Output(as_json=True)
    with channel.working() as progress:
        print("from some library")
        progress("stage", 1, 2)
    channel.result({"a": 1}, "")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"a": 1}
    assert "from some library\nstage 1/2\n" in err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    channel = Output(quiet=True)
    with channel.working() as progress:
        progress("stage", 1, 2)
    channel.note("note")
    assert capsys.readouterr() == ("", "")


def test_lines_come_at_start_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().working() as progress:
        for done in range(5):
            progress("measuring", done, 4)
        progress("linking")
    assert capsys.readouterr().err == "measuring 0/4\nmeasuring 4/4\nlinking\n"


def test_a_stage_that_runs_once_more_counts_its_time_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0, 20.0, 1000.0, 1010.0])
    monkeypatch.setattr("ofa_compile.cli.render.time.monotonic", lambda: next(clock))
    with Output().working() as progress:
        for done in (0, 2, 4, 0, 2):
            progress("search", done, 4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == lines[4] == "search 2/4, 10 s left"


def test_bars_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Output().working() as progress:
        progress("measuring", 0, 2)
        progress("measuring", 2, 2)
    assert "measuring" in capsys.readouterr().err


def test_report_is_one_line_per_entry(capsys: pytest.CaptureFixture[str]) -> None:
    Output().report({"median_ms": 1.25, "file": None, "names": ["a", "b"], "more": {"c": [1]}})
    assert capsys.readouterr().out.splitlines() == [
        "median ms  1.250",
        "file       -",
        "names      a, b",
        'more       {"c":[1]}',
    ]
