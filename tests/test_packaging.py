"""The wheel carries kernels, targets, weights and C sources, and works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from ofa_compile.compiler.vulkan.plugin_build import LIBRARY

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


PLUGIN = f"ofa_compile/runtime/{LIBRARY}"
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def copy_checkout(target: Path) -> Path:
    """Copy what is built, so that no build folder appears in the checkout."""
    pytest.importorskip("setuptools", "77")
    root = Path(__file__).parents[1]
    ignored = shutil.ignore_patterns("__pycache__", LIBRARY)
    for folder in FOLDERS:
        shutil.copytree(root / folder, target / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "LICENSE.GPL-2.0"):
        shutil.copy(root / name, target / name)
    return target


def call_backend(
    source: Path, call: str, python: str = sys.executable, **environment: str
) -> tuple[str, str]:
    """Return what a function of the build backend says about a source tree, and its log."""
    code = f"import json; from setuptools import build_meta as b; print(json.dumps(b.{call}))"
    done = subprocess.run(
        [python, "-c", code],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def call_installed(folder: Path, code: str, **environment: str) -> str:
    """Return what Python prints away from the checkout, with the package in a folder."""
    (elsewhere := folder.with_name("elsewhere")).mkdir(exist_ok=True)
    text = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", text],
        cwd=elsewhere,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bare_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a wheel that was built without a compiler, and the log of that."""
    source = copy_checkout(tmp_path_factory.mktemp("source"))
    out, nothing = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("nothing")
    name, log = call_backend(source, f"build_wheel({str(out)!r})", PATH=str(nothing))
    return out / name, log


@pytest.fixture(scope="module")
def wheel(bare_build: tuple[Path, str]) -> Path:
    return bare_build[0]


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
            # An editable installation puts the library in place.
            if path.is_file() and "__pycache__" not in path.parts and path.name != LIBRARY:
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
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        "import ofa_compile, ofa_compile.targets\n"
        f"assert ofa_compile.__file__.startswith({str(installed)!r}), ofa_compile.__file__\n"
        "import importlib\n"
        "assert 'arm64' in ofa_compile.list_targets()\n"
        "kernel = importlib.import_module('ofa_compile.kernels.pointwise')\n"
        f"assert kernel.__file__.startswith({str(installed)!r}), kernel.__file__\n"
        "from ofa_compile.cli.app import run_app\n"
        "sys.exit(run_app(['targets', 'show', 'arm64', '--json']))\n"
    )
    assert '"name": "arm64"' in call_installed(installed, code)


def test_a_build_without_a_compiler_says_how_to_add_the_plugin(
    bare_build: tuple[Path, str],
) -> None:
    log = bare_build[1]
    assert "no C++ compiler, which the Vulkan device of TVM needs" in log
    assert "sudo apt-get install g++; then install again, or let the first use build it" in log


@pytest.mark.slow
@needs_compiler
def test_a_build_with_a_compiler_holds_the_plugin(tmp_path: Path) -> None:
    """Which is what runs, without a compiler, and no longer when the sources are others."""
    source, installed = copy_checkout(tmp_path / "source"), tmp_path / "site"
    name, _ = call_backend(source, f"build_wheel({str(tmp_path)!r})")
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert name.endswith(f"-py3-none-{platform}.whl")
    with zipfile.ZipFile(tmp_path / name) as archive:
        archive.extractall(installed)
    library = installed / PLUGIN
    # The folders of the build are nobody's business.
    assert str(tmp_path).encode() not in library.read_bytes()
    code = "from ofa_compile.compiler.vulkan.tvm_plugin import find_plugins, load_plugin\n"
    found = f"{code}print(*find_plugins())"
    away = {"PATH": str(tmp_path / "nothing"), "OFA_COMPILE_CACHE": str(tmp_path / "cache")}
    assert call_installed(installed, found, **away).split() == [str(library)]
    loads = f"{code}import tvm\nassert load_plugin()\nprint(open('/proc/self/maps').read())"
    assert str(library) in call_installed(installed, loads, **away)
    with (installed / "ofa_compile/runtime/vulkan_tvm.cc").open("a") as file:
        file.write("// changed\n")
    assert call_installed(installed, found, **away).split() == []


@pytest.mark.slow
@needs_compiler
def test_an_editable_installation_has_the_plugin_in_place(tmp_path: Path) -> None:
    source, out = copy_checkout(tmp_path / "source"), tmp_path / "wheels"
    out.mkdir()
    call_backend(source, f"build_editable({str(out)!r})")
    built = (source / PLUGIN).read_bytes()
    # What fits is not built again, nor kept out of a wheel.
    nothing = str(tmp_path / "nothing")
    name, log = call_backend(source, f"build_wheel({str(out)!r})", PATH=nothing)
    assert "no C++ compiler" not in log
    with zipfile.ZipFile(out / name) as archive:
        assert archive.read(PLUGIN) == built


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = copy_checkout(tmp_path / "source")
    nothing = str(tmp_path / "nothing")
    name, _ = call_backend(source, f"build_sdist({str(tmp_path)!r})")
    with tarfile.open(tmp_path / name) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    name, _ = call_backend(unpacked, f"build_wheel({str(tmp_path)!r})", PATH=nothing)
    inside = [set(zipfile.ZipFile(path).namelist()) for path in (wheel, tmp_path / name)]
    assert inside[0] == inside[1]


@needs_compiler
def test_what_an_isolated_build_fetches(tmp_path: Path, repository: Path) -> None:
    """TVM, for its headers, unless it is there already or nothing could be built with it."""
    setuptools = pytest.importorskip("setuptools", "77")
    source, bare = copy_checkout(tmp_path / "source"), tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    (tmp_path / "path").mkdir()
    packages = Path(setuptools.__file__).parents[1]
    for path in (*packages.glob("setuptools*"), packages / "_distutils_hack"):
        (tmp_path / "path" / path.name).symlink_to(path)
    (site,) = bare.glob("lib/python*/site-packages")
    # As pip does: the build sees nothing of the environment whose interpreter it runs with.
    hide = f"import sys\nsys.path.remove({str(site)!r})\n"
    (tmp_path / "path" / "sitecustomize.py").write_text(hide)
    isolated = str(bare / "bin" / "python")
    needed = {"PYTHONPATH": str(tmp_path / "path")}
    call = "get_requires_for_build_wheel()"
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pins = [each for each in project["dependencies"] if each.startswith("apache-tvm")]
    assert len(pins) == 2
    nothing = {**needed, "PATH": str(tmp_path / "nothing")}
    assert call_backend(source, call, isolated, **nothing)[0] == []
    assert call_backend(source, call, isolated, **needed)[0] == pins
    for path in packages.glob("apache_tvm*.dist-info"):
        (site / path.name).symlink_to(path)
    assert call_backend(source, call, isolated, **needed)[0] == []
