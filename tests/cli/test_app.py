from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

import ofa_compile
from ofa_compile import errors
from ofa_compile.cli import app as app_module
from ofa_compile.cli import targets
from ofa_compile.cli.app import run_app


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(targets, "load_target", fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.OfaCompileError("what is wrong", hint="do that"), 1),
        (errors.TargetSpecError("what is wrong", hint="do that"), 2),
        (errors.MissingDependencyError("what is wrong", hint="do that"), 3),
        (errors.DeviceUnavailableError("what is wrong", hint="do that"), 4),
        (errors.BuildError("what is wrong", hint="do that"), 5),
        (errors.NumericMismatchError("what is wrong", hint="do that"), 6),
        (errors.InfeasibleConstraintError("what is wrong", hint="do that"), 7),
    ],
)
def test_errors_become_exit_codes(
    error: Exception,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing_with(monkeypatch, error)
    assert run_app(["targets", "show", "arm64", "--json"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: what is wrong\nhint: do that\n"


def test_debug_adds_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, errors.BuildError("what is wrong"))
    for arguments in (["--debug", "targets", "show", "x"], ["targets", "show", "x", "--debug"]):
        assert run_app(arguments) == 5
        assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_one_line_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, KeyboardInterrupt())
    assert run_app(["targets", "show", "arm64"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_full_or_closed_disk_is_the_users(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with(monkeypatch, PermissionError(13, "Permission denied", "/out"))
    assert run_app(["targets", "show", "arm64"]) == 2
    assert "Permission denied: '/out'" in capsys.readouterr().err


def test_other_exceptions_are_bugs_and_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        run_app(["targets", "show", "arm64"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(arguments) == 0
    out = capsys.readouterr().out
    for name in ("compile", "export", "search", "measure", "fit-latency", "fit-accuracy", "train"):
        assert f"\n  {name} " in out
    for name in ("evaluate", "run", "targets", "supernet", "doctor", "cache"):
        assert f"\n  {name} " in out


def commands() -> list[list[str]]:
    words = []
    app = app_module.make_app()
    for command in app.registered_commands:
        words.append([str(command.name)])
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            words.append([str(group.name), str(command.name)])
    return words


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example_and_json(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app([*words, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"Example: ofa-compile {'' if words == ['compile'] else ' '.join(words)}" in out
    assert "--json" in out
    assert "--quiet" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--version"]) == 0
    assert capsys.readouterr().out == f"ofa-compile {ofa_compile.__version__}\n"


@pytest.mark.parametrize("prefix", [[], ["compile"]])
def test_options_alone_mean_compile(prefix: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "arm64", "--max-macs", "2e6", "--dry-run", "--json"]
    assert run_app([*prefix, *arguments]) == 0
    options = json.loads(capsys.readouterr().out)
    assert (options["target"], options["max_macs"], options["verify"]) == ("arm64", 2e6, True)


def test_options_before_a_command_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--target", "arm64", "search"]) == 2
    err = capsys.readouterr().err
    assert "error: options of the default action stand before the command 'search'" in err
    assert "hint: put the command first: ofa-compile search ..." in err
    assert run_app(["--target", "arm64", "bundle"]) == 2
    assert "unexpected argument 'bundle'" in capsys.readouterr().err


def test_a_value_may_be_spelled_like_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--target", "arm64", "--output", "run", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == "run"


def test_target_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OFA_COMPILE_TARGET", "cortex-a72")
    assert run_app(["--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "cortex-a72"
    assert run_app(["-t", "host", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"] == "host"
    assert run_app(["doctor", "--json"]) == 0  # not refused as an option before a command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x"], "--target"),
        (["--target"], "requires an argument"),
        (["--targt", "arm64"], "--target"),
        (["--target", "arm64", "--max-latency-ms", "fast"], "--max-latency-ms"),
        (["--target", "arm64", "--max-latency-ms", "-1"], "greater than or equal to 0"),
        (["nonsense"], "nonsense"),
        (["run", "bundle"], "--image"),
        (["measure", "--count", "0"], "--count"),
    ],
)
def test_misuse_exits_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "from ofa_compile.__main__ import main; main()"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, "targets", "list"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 1)


def test_help_is_fast() -> None:
    command = [sys.executable, "-m", "ofa_compile", "--help"]
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: other processes on the machine do not count.
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5  # the goal is 0.3 s; the bound leaves room for a slow machine
