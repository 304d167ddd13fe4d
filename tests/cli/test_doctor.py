from __future__ import annotations

import json
from pathlib import Path

import pytest

from ofa_compile.cli.app import run_app


def test_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["doctor", "--json"]) == 0
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["apache-tvm"]["is_ok"]
    assert checks["Python"]["is_ok"]
    assert all(c["is_ok"] or c["hint"] for c in checks.values())


def test_what_is_lacking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_app(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "for arm64 targets: sudo apt-get install gcc-aarch64-linux-gnu" in out
    assert "for running arm64 bundles here: sudo apt-get install qemu-user" in out
