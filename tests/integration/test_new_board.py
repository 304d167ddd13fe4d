"""The guide docs/new-board.md, followed to the letter: its `sh` blocks run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NEEDS = ("riscv64-linux-gnu-gcc", "qemu-riscv64", "clang", "wasm-ld")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(repository: Path) -> list[str]:
    text = (repository / "docs/new-board.md").read_text(encoding="utf-8")
    return BLOCK.findall(text)


def test_guide_names_only_commands_that_exist(repository: Path) -> None:
    """Every line of the guide, those for a board as well, has options that the commands know."""
    from typer.main import get_command

    from ofa_compile.cli.app import make_app

    text = (repository / "docs/new-board.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?(ofa-compile .*)$", text, re.MULTILINE)
    assert len(lines) >= 12
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command: Any = get_command(make_app())
        if words[0].startswith("-"):
            words.insert(0, "compile")
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {name for parameter in command.params for name in parameter.opts}
        used = {word for word in words if re.fullmatch(r"--[a-z-]+", word)}
        assert used <= known, f"{line}: {used - known}"


@pytest.mark.slow
@pytest.mark.node
def test_guide(repository: Path, tmp_path: Path) -> None:
    lacking = [name for name in NEEDS if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed (scripts/system-packages.sh tests)")
    scripts = tmp_path / "bin"
    scripts.mkdir()
    command = scripts / "ofa-compile"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ofa_compile "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    script = "\n".join(["set -euo pipefail", *blocks(repository)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, runner in (("bundle", "emulator qemu-riscv64"), ("page", "engine node")):
        manifest = json.loads((folder / name / "manifest.json").read_text(encoding="utf-8"))
        verification = manifest["verification"]
        assert verification["verified"] is True
        assert verification["max_abs_error"] <= 1e-4 * verification["max_abs_logit"]
        assert verification["runner"] == runner
    assert (folder / "board-daemon").read_bytes()[:4] == b"\x7fELF"
    # The engine filled in its own facts, and the last check finds nothing to complain about.
    assert "read in node" in (folder / "browser.toml").read_text(encoding="utf-8")
    assert "lacking" not in done.stdout
