from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.compiler.vulkan import plugin_build, tvm_plugin


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


def test_tvms_vulkan_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where its library is, or how it is added: with a compiler by its first use."""

    def found() -> dict[str, Any]:
        assert run_app(["doctor", "--json"]) == 0
        checks = json.loads(capsys.readouterr().out)["checks"]
        return next(c for c in checks if c["name"] == "Vulkan in TVM")

    monkeypatch.setattr(tvm_plugin, "find_plugins", lambda: iter([tmp_path / "library.so"]))
    assert found()["detail"] == str(tmp_path / "library.so")
    monkeypatch.setattr(tvm_plugin, "find_plugins", lambda: iter(()))
    monkeypatch.setattr(plugin_build.shutil, "which", lambda name: f"/usr/bin/{name}")
    use = "-c 'from ofa_compile.compiler.vulkan.tvm_plugin import enable_vulkan; enable_vulkan()'"
    lacking = found()
    assert not lacking["is_ok"]
    assert lacking["hint"] == f"{sys.executable} {use}"
    monkeypatch.setattr(plugin_build.shutil, "which", lambda _: None)
    assert found()["hint"].startswith("sudo apt-get install g++ && ")
