from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from ofa_compile.cache import Cache
from ofa_compile.compiler.emit_c import emit_network
from ofa_compile.compiler.link import Linker, runtime_folder
from ofa_compile.compiler.plan import Plan
from ofa_compile.errors import BuildError
from ofa_compile.hardware.target_spec import load_target
from ofa_compile.hardware.toolchain import Toolchain, find_linker


@pytest.fixture
def toolchain() -> Toolchain:
    return find_linker(load_target("host"))


def link(linker: Linker, output: Path, prefix: str = "ofa_x_", text: str | None = None) -> None:
    plan = Plan((1, 3, 2, 2), (1, 2))
    plan.output = plan.new_buffer(2)
    source = emit_network(plan, {}, "nothing")
    c_source = source.c_source.replace("STEPS[] = {\n\n}", "STEPS[] = {{0, 0, 0}}")
    network = linker.compile_network(text or c_source, source.weights, [])
    linker.link(output, network, [], prefix, None)


def test_runtime_sources_ship_with_the_package() -> None:
    names = {path.name for path in runtime_folder().iterdir()}
    assert {"ofa_pool.c", "ofa_run.c", "ofa_session.c", "subnet_abi.c", "main.c"} <= names


def test_writes_a_library_and_compiles_once(
    tmp_path: Path, cache: Cache, toolchain: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    link(Linker(toolchain, cache), tmp_path)
    first = (tmp_path / "libsubnet.so").read_bytes()
    compiled: list[list[str]] = []
    run = Linker._run
    monkeypatch.setattr(Linker, "_run", lambda self, c, f: (compiled.append(c), run(self, c, f))[1])
    link(Linker(toolchain, cache), tmp_path)
    assert ["-shared" in command for command in compiled] == [True]
    assert (tmp_path / "libsubnet.so").read_bytes() == first


def test_what_the_compiler_says_is_in_the_message(
    tmp_path: Path, cache: Cache, toolchain: Toolchain
) -> None:
    with pytest.raises(BuildError, match=r"(?s)failed \(1\).*expected"):
        link(Linker(toolchain, cache), tmp_path, text="this is not C")


def test_a_prefix_that_is_no_identifier(tmp_path: Path, cache: Cache, toolchain: Toolchain) -> None:
    with pytest.raises(BuildError, match="failed"):
        link(Linker(toolchain, cache), tmp_path, prefix="9-")


def test_a_compiler_that_is_gone(tmp_path: Path, toolchain: Toolchain) -> None:
    copy = tmp_path / "cc"
    shutil.copy(shutil.which("true") or "/bin/true", copy)
    gone = dataclasses.replace(toolchain, command=(str(copy),))
    linker = Linker(gone, Cache(tmp_path / "cache"))
    copy.unlink()
    with pytest.raises(BuildError, match="could not be run"):
        link(linker, tmp_path)


def test_nothing_of_this_machine_is_in_the_library(
    tmp_path: Path, cache: Cache, toolchain: Toolchain
) -> None:
    link(Linker(toolchain, cache), tmp_path)
    data = (tmp_path / "libsubnet.so").read_bytes()
    for word in (str(tmp_path), str(runtime_folder()), "ofa-link-"):
        assert word.encode() not in data
