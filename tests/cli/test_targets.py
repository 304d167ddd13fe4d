from __future__ import annotations

import json
from pathlib import Path

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.target_spec import list_targets, load_target


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["targets", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{name} " in out for name in list_targets())
    assert run_app(["targets", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in document["targets"]] == list_targets()
    precisions = {item["name"]: item["precisions"] for item in document["targets"]}
    assert precisions["cortex-a55"] == ["fp32", "fp16", "int8"]


def test_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["targets", "show", "arm64"]) == 0
    out = capsys.readouterr().out
    assert "tvm_target.mcpu = generic\n" in out
    assert "kernels = (none)\n" in out
    assert "precisions = fp32, int8" in out
    assert "toolchain.linkers = aarch64-linux-gnu-gcc, " in out


def test_unknown_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["targets", "show", "arm46"]) == 2
    assert "hint: did you mean 'arm64'?" in capsys.readouterr().err


@pytest.mark.arm64
def test_check_builds_and_runs_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["targets", "check", "arm64", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    checks = document["checks"]
    names = [check["name"] for check in checks]
    assert names == ["target file", "TVM target", "kernel", "compiler", "test program"]
    assert all(check["is_ok"] for check in checks)
    assert "builds and runs" in checks[-1]["detail"]
    assert (document["is_ok"], document["not_run"]) == (True, [])


def test_check_without_a_compiler_still_compiles_a_kernel(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANDROID_NDK", "ANDROID_NDK_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run_app(["targets", "check", "android-arm64"]) == 3
    printed = capsys.readouterr()
    assert "ok       kernel        compiles for aarch64: an object of " in printed.out
    assert "not run  test program  not built for want of: compiler" in printed.out
    assert printed.out.endswith("\nlacking: compiler\n")
    assert "compiler: unpack Android's NDK" in printed.err


def test_check_without_the_gpu_passes_and_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_none(kind: str) -> list[object]:
        message = f"no {kind} driver on this machine"
        raise DeviceUnavailableError(message, hint="install it")

    monkeypatch.setattr("ofa_compile.diagnosis.check_gpu", find_none)
    monkeypatch.setattr("ofa_compile.diagnosis._compile_kernel", lambda target: "compiles")
    assert run_app(["targets", "check", "vulkan"]) == 0
    printed = capsys.readouterr()
    assert "not run  GPU           no vulkan driver on this machine" in printed.out
    assert printed.out.endswith("\npassed as far as this machine can tell; not run: GPU\n")
    assert "GPU: install it" in printed.err
    assert run_app(["targets", "check", "vulkan", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["is_ok"], document["not_run"]) == (True, ["GPU"])


def test_check_reports_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    text = (repository / "targets/arm64.toml").read_text(encoding="utf-8")
    text = text.replace('kind = "llvm"', 'kind = "llvm"\nmcpux = 1')
    text = text.replace('linkers = ["aarch64-linux-gnu-gcc", "gcc", "cc", "clang", "ziglang"]', "")
    path = tmp_path / "odd.toml"
    path.write_text(text + 'linkers = ["no-such-gcc"]\n', encoding="utf-8")
    path.write_text(
        text.replace("[toolchain]", '[toolchain]\nlinkers = ["no-such-gcc"]'), encoding="utf-8"
    )
    assert run_app(["targets", "check", str(path)]) == 3
    out = capsys.readouterr().out
    assert "lacking  TVM target" in out
    assert "mcpux" in out
    assert "looked for no-such-gcc" in out


def test_check_of_a_malformed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("schema_version = 1\nrunner = 3\ndescription = 'x'\n", encoding="utf-8")
    assert run_app(["targets", "check", str(path)]) == 2
    assert "bad.toml" in capsys.readouterr().err


def test_new_probe_and_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target made on the command line for this machine, filled in by it, and found right."""
    monkeypatch.chdir(tmp_path)
    local = ("--set", 'runner.kind="local"', "--set", "core.cores=1000")
    assert run_app(["targets", "new", "pc", "--from", "host", *local]) == 0
    assert "wrote pc.toml\ncheck it: ofa-compile targets check pc.toml" in capsys.readouterr().out
    assert run_app(["targets", "check", "pc.toml"]) == 0
    printed = capsys.readouterr()
    assert "differs  device" in printed.out
    assert "core.cores is 1000, the device has " in printed.out
    assert "targets probe FILE --write" in printed.err
    assert run_app(["targets", "probe", "pc.toml", "--write", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["where"] == "here"
    assert document["written"]["core.cores"] == load_target("host").core.cores
    assert load_target(tmp_path / "pc.toml").core.cores == load_target("host").core.cores


def test_mistakes_of_new_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(["targets", "new", "x", "--triple", "riscv64-linux-gnu"]) == 2
    assert "--cpu is needed" in capsys.readouterr().err
    assert run_app(["targets", "probe", "riscv64"]) in (3, 4)  # no emulator, or nothing but one
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
