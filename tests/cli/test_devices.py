from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "remote"))

from boards import Daemon, LocalTracker

from ofa_compile.cli.app import run_app
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.remote.daemon import build_daemon


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OFA_COMPILE_TRACKER", "OFA_COMPILE_BOARD"):
        monkeypatch.delenv(name, raising=False)


def test_build_start_and_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "daemon"
    assert run_app(["device", "build", "--target", "host", "--output", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["daemon"], report["bytes"]) == (str(path), path.stat().st_size)
    assert "--key host" in report["start_it_with"]
    tracker = LocalTracker()
    daemon = Daemon(path, "pi", tracker.endpoint, folder=tmp_path)
    try:
        tracker.wait_for("pi")
        command = ["targets", "devices", "--tracker", str(tracker.endpoint)]
        assert run_app([*command, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        (entry,) = document["keys"]
        assert entry["boards"] == [str(daemon.endpoint)]
        assert (entry["key"], entry["num_free"], entry["num_waiting"]) == ("pi", 1, 0)
        assert run_app([*command, "--target", "arm64"]) == 0
        table = capsys.readouterr().out
        assert "arm64" in table
        assert str(daemon.endpoint) not in table
    finally:
        daemon.stop()
        tracker.stop()


def test_check_runs_a_program_on_the_board(
    tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "x86-64" if load_target("x86-64").is_native else "arm64"
    text = (repository / "targets" / f"{name}.toml").read_text()
    build_daemon(load_target(name), tmp_path / "daemon")
    daemon = Daemon(tmp_path / "daemon", "board", None, folder=tmp_path)
    try:
        runner = re.compile(r"\[runner\]\nkind = .*\n")
        board = tmp_path / "board.toml"
        board.write_text(
            runner.sub(f'[runner]\nkind = "rpc"\nserver = "{daemon.endpoint}"\n', text)
        )
        assert run_app(["targets", "check", str(board)]) == 0
        assert f"builds and runs on board board@{daemon.endpoint}: " in capsys.readouterr().out
    finally:
        daemon.stop()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["targets", "devices"], 4, "nothing says where the tracker is"),
        (["targets", "devices", "--tracker", "nonsense"], 2, "must be HOST:PORT"),
        (["targets", "devices", "--tracker", "127.0.0.1:1"], 4, "no RPC tracker at 127.0.0.1:1"),
        (["targets", "devices", "--target", "arm64"], 4, "nothing says where they are"),
        (["device", "build", "--target", "arm46"], 2, "unknown target 'arm46'"),
    ],
)
def test_errors(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(arguments) == code
    assert words in capsys.readouterr().err
