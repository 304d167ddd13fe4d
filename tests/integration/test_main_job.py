"""The main job as a user runs it: `ofa-compile --target arm64`, weights to photographs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ofa_compile as ofa
from ofa_compile.supernet import embedded_supernets

pytestmark = [
    pytest.mark.arm64,
    pytest.mark.skipif(not embedded_supernets(), reason="no trained weights in this checkout"),
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ofa_compile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("main") / "bundle"
    done = run("--target", "arm64", "--output", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
def test_every_architecture_is_searched_compiled_and_verified(
    built: tuple[Path, dict[str, Any]],
) -> None:
    folder, printed = built
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert printed == manifest
    space = ofa.search_space(manifest["architecture"]["space"])
    space.validate(ofa.Architecture.from_json(json.dumps(manifest["architecture"])))
    verification = manifest["verification"]
    assert verification["max_abs_error"] <= 1e-4 * verification["max_abs_logit"]
    assert verification["runner"] == "emulator qemu-aarch64 -cpu cortex-a53"
    for figure in manifest["figures"].values():
        assert figure["kind"] in ("predicted", "estimated")


@pytest.mark.slow
def test_the_executable_is_a_static_aarch64_elf(built: tuple[Path, dict[str, Any]]) -> None:
    header = (built[0] / "subnet").read_bytes()
    assert header[:5] == b"\x7fELF\x02"
    assert int.from_bytes(header[16:18], "little") == 2  # ET_EXEC
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    table = int.from_bytes(header[32:40], "little")
    count = int.from_bytes(header[56:58], "little")
    kinds = [
        int.from_bytes(header[table + 56 * i : table + 56 * i + 4], "little") for i in range(count)
    ]
    assert 3 not in kinds, "PT_INTERP: needs a dynamic loader"
    assert 2 not in kinds, "PT_DYNAMIC: needs shared libraries"


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("L", "png"), ("RGB", "jpg")])
def test_photographs_of_any_size_are_classified(
    mode: str, suffix: str, built: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 211, 3), dtype=np.uint8)
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(pixels).convert(mode).save(path)
    done = run("run", str(built[0]), "--image", str(path), "--json")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "airplane" in (built[0] / "labels.txt").read_text(encoding="utf-8")
    document = json.loads(text)
    predictions = document["images"][0]["classes"]
    assert sum(p["probability"] for p in predictions) <= 1 + 1e-6
    assert predictions[0]["probability"] >= predictions[-1]["probability"]


@pytest.mark.slow
def test_limit_that_nothing_meets_says_the_best_reachable(tmp_path: Path) -> None:
    output = tmp_path / "out"
    limits = ("--max-latency-ms", "0.0001")
    done = run("--target", "arm64", *limits, "--output", str(output))
    assert done.returncode == 7
    assert "ms" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


@pytest.mark.slow
def test_limits_are_met(tmp_path: Path) -> None:
    output = tmp_path / "out"
    limits = ("--max-macs", "8e6", "--max-size-bytes", "5e6")
    done = run("--target", "arm64", *limits, "--output", str(output), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["network"]["macs"] <= 8e6
