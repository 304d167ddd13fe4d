"""Commands end to end through `run_app`, on small inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ofa_compile.cli.app import run_app
from ofa_compile.space import search_spaces


def test_supernet_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["supernet", "list", "--json"]) == 0
    spaces = json.loads(capsys.readouterr().out)["spaces"]
    assert [space["name"] for space in spaces] == search_spaces()
    assert run_app(["supernet", "list"]) == 0
    assert "ofa_resnet50" in capsys.readouterr().out


def test_cache_info_and_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ofa_compile.cache import Cache, digest

    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path))
    Cache().put("objects", digest("key"), b"abc")
    assert run_app(["cache", "info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["folder"], info["num_entries"], info["num_bytes"]) == (str(tmp_path), 1, 3)
    assert run_app(["cache", "clear", "--quiet"]) == 0
    assert "num entries  1" in capsys.readouterr().out
    assert Cache().info().num_entries == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "--supernet", "ofa_mbv3_cifra"], "no supernet 'ofa_mbv3_cifra'"),
        (["export", "--supernet", "{text}"], "note.safetensors"),
        (["supernet", "import", "{text}", "--space", "nonsense"], "unknown search space"),
        (["supernet", "info", "no.pth"], "no.pth"),
        (["run", "{folder}", "--image", "{text}"], "is not a bundle"),
        (["search", "--target", "arm46"], "unknown target 'arm46'"),
        (["search", "--space", "ofa_mbv4"], "unknown search space"),
        (["measure", "--target", "arm46"], "unknown target 'arm46'"),
        (["fit-latency", "--target", "host", "--dataset", "{folder}/no.jsonl"], "no latency data"),
        (["evaluate", "--data", "{folder}/none"], "none"),
        (["train", "--data", "{folder}/none", "--output", "{folder}/out"], "does not exist"),
        (["--target", "arm46", "--output", "{folder}/out"], "unknown target 'arm46'"),
    ],
)
def test_bad_input_exits_with_2_and_says_why(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "note.safetensors"
    text.write_text("not weights", encoding="utf-8")
    assert run_app([a.format(text=text, folder=tmp_path) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "error: " in err
    assert "Traceback" not in err
