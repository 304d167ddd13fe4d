"""The wheel carries kernels, targets, weights and C sources, and works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

FOLDERS = ("ofa_compile", "kernels", "targets")
SHIPPED_SUFFIXES = {
    ".py",
    ".toml",
    ".c",
    ".h",
    ".cc",
    ".mjs",
    ".safetensors",
    ".npz",
    ".xz",
    ".md",
    ".json",
    ".typed",
    ".html",
    ".css",
    ".js",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder appears in the checkout."""
    pytest.importorskip("setuptools", "77")
    root = Path(__file__).parents[1]
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy / name)
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_listed_packages_equal_the_folders(repository: Path) -> None:
    data = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(data["tool"]["setuptools"]["packages"])
    found = {
        path.parent.relative_to(repository).as_posix().replace("/", ".")
        for path in (repository / "ofa_compile").rglob("__init__.py")
    }
    assert listed == found | {"ofa_compile.kernels", "ofa_compile.targets"}


def test_wheel_holds_every_file_of_the_package(wheel: Path, repository: Path) -> None:
    shipped = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for folder in FOLDERS:
        for path in (repository / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.suffix in SHIPPED_SUFFIXES, f"does {path} belong into the package?"
                inside = path.relative_to(repository).as_posix()
                expected.add(inside if folder == "ofa_compile" else f"ofa_compile/{inside}")
    assert {n for n in shipped if n.startswith("ofa_compile/")} == expected
    assert "ofa_compile/py.typed" in shipped
    assert "ofa_compile/targets/arm64.toml" in shipped
    assert "ofa_compile/kernels/pointwise.py" in shipped
    assert "ofa_compile/runtime/main.c" in shipped
    assert any(name.endswith("licenses/LICENSE") for name in shipped)


def test_wheel_declares_the_command_and_the_pins(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry = next(n for n in names if n.endswith(".dist-info/entry_points.txt"))
        metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
        assert b"ofa-compile = ofa_compile.__main__:main" in archive.read(entry)
        # TVM finds our Vulkan by it.
        assert b"[tvm.backends]\nofa_vulkan = ofa_compile" in archive.read(entry)
        text = archive.read(metadata).decode()
    assert "Requires-Dist: apache-tvm-ffi==0.1.14.post0" in text
    assert "License-Expression: Apache-2.0 AND GPL-2.0-or-later" in text


def test_an_installed_wheel_works_from_elsewhere(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import ofa_compile, ofa_compile.targets\n"
        f"assert ofa_compile.__file__.startswith({str(installed)!r}), ofa_compile.__file__\n"
        "import importlib\n"
        "assert 'arm64' in ofa_compile.list_targets()\n"
        "kernel = importlib.import_module('ofa_compile.kernels.pointwise')\n"
        f"assert kernel.__file__.startswith({str(installed)!r}), kernel.__file__\n"
        "from ofa_compile.cli.app import run_app\n"
        "sys.exit(run_app(['targets', 'show', 'arm64', '--json']))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"name": "arm64"' in done.stdout
