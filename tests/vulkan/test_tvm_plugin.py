"""The library that makes Vulkan a device of TVM: where it is found, and when it is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tvm_ffi

from ofa_compile.cache import Cache
from ofa_compile.compiler import tvm_api  # noqa: F401 - which imports TVM before anything is patched
from ofa_compile.compiler.vulkan import plugin_build, tvm_plugin
from ofa_compile.compiler.vulkan.plugin_build import LIBRARY, TvmWheels, plugin_key
from ofa_compile.errors import BuildError, MissingDependencyError

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture
def wheels() -> TvmWheels:
    found = TvmWheels.find()
    assert found is not None
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """Return an empty cache, the one that is used."""
    monkeypatch.setenv("OFA_COMPILE_CACHE", str(tmp_path / "cache"))
    tvm_plugin.load_plugin.cache_clear()
    yield Cache()
    tvm_plugin.load_plugin.cache_clear()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the sources that stands for the package's, without a library."""
    folder = tmp_path / "runtime"
    ignored = shutil.ignore_patterns("*.py*", LIBRARY)
    shutil.copytree(plugin_build.runtime_folder(), folder, ignore=ignored)
    monkeypatch.setattr(plugin_build, "runtime_folder", lambda: folder)
    return folder


@pytest.fixture
def absent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TVM, which has been imported above, look as if it had no Vulkan."""
    real = tvm_ffi.get_global_func

    def find(name: str, **options: bool) -> Any:
        return None if name == "device_api.vulkan" else real(name, **options)

    monkeypatch.setattr(tvm_ffi, "get_global_func", find)


def test_both_wheels_are_found(wheels: TvmWheels) -> None:
    assert [r.split("==")[0] for r in wheels.requirements] == ["apache-tvm", "apache-tvm-ffi"]
    assert (wheels.folders[0] / "include" / "tvm" / "runtime" / "device_api.h").is_file()
    assert (wheels.folders[1] / "lib" / "libtvm_ffi.so").is_file()
    assert TvmWheels.find(["/nowhere"]) is None


def test_only_a_library_that_fits_is_found(wheels: TvmWheels, cache: Cache, runtime: Path) -> None:
    assert list(tvm_plugin.find_plugins()) == []
    key = plugin_key(wheels)
    shipped = runtime / LIBRARY
    shipped.write_bytes(b"code " + key.encode() + b" code")
    cached = cache.put(tvm_plugin.NAMESPACE, key, b"code")
    assert list(tvm_plugin.find_plugins()) == [shipped, cached]
    other = TvmWheels(wheels.folders, ("apache-tvm==0.99", wheels.requirements[1]))
    assert plugin_build.shipped_plugin(other) is None
    with (runtime / "vulkan_tvm_memory.h").open("a") as header:
        header.write("// changed\n")
    assert list(tvm_plugin.find_plugins()) == []


@needs_compiler
def test_every_source_is_part_of_the_identity(wheels: TvmWheels, runtime: Path) -> None:
    """Whatever the compiler reads of ours, or it may be out of date and nobody notices."""
    source = runtime / "vulkan_tvm.cc"
    command = ["g++", "-std=c++17", "-MM", "-MG", f"-I{runtime}", str(source)]
    command += [f"-I{folder / 'include'}" for folder in wheels.folders]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    read = {Path(word).name for word in done.stdout.split() if word.startswith(str(runtime))}
    assert {"vulkan_tvm.cc", "vulkan_tvm_kernel.h", "vulkan_api.h"} <= read
    before = plugin_key(wheels)
    for name in read | set(plugin_build.SOURCES):
        path = runtime / name
        data = path.read_bytes()
        path.write_bytes(data + b"\n")
        assert plugin_key(wheels) != before, name
        path.write_bytes(data)
    assert plugin_key(wheels) == before


@pytest.mark.usefixtures("absent_device")
def test_a_library_that_cannot_be_loaded_is_passed_over(
    wheels: TvmWheels, cache: Cache, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was built for a newer C library; what is built instead is what counts."""
    (runtime / LIBRARY).write_bytes(plugin_key(wheels).encode())
    assert not tvm_plugin.load_plugin()
    monkeypatch.setattr(tvm_plugin, "build_plugin", lambda _: b"no library either")
    with pytest.raises(BuildError, match="is built and cannot be loaded") as got:
        tvm_plugin.enable_vulkan()
    path = cache.get(tvm_plugin.NAMESPACE, plugin_key(wheels))
    assert path is not None
    assert str(path) in str(got.value)


@pytest.mark.usefixtures("absent_device", "cache", "runtime")
def test_without_a_compiler_it_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_build.shutil, "which", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"no C\+\+ compiler") as got:
        tvm_plugin.enable_vulkan()
    assert got.value.hint == "sudo apt-get install g++"
    assert tvm_plugin.build_line().startswith("sudo apt-get install g++ && ")


@needs_compiler
def test_without_tvm_it_says_so() -> None:
    with pytest.raises(MissingDependencyError, match="files of apache-tvm and apache-tvm-ffi"):
        plugin_build.build_plugin(None)


@needs_compiler
def test_what_does_not_compile_says_why(wheels: TvmWheels, runtime: Path) -> None:
    (runtime / "gpu_error.c").write_text("#error of no use\n")
    with pytest.raises(BuildError, match=r"cannot build the Vulkan.*of no use"):
        plugin_build.build_plugin(wheels)


@needs_compiler
@pytest.mark.usefixtures("tvm_target")
def test_a_library_in_another_cache_is_not_loaded_as_well(wheels: TvmWheels, cache: Cache) -> None:
    """Its names would be registered twice, which ends in an exception within the loader."""
    cache.put(tvm_plugin.NAMESPACE, plugin_key(wheels), b"code")
    assert tvm_plugin.load_plugin()
    assert str(cache.root) not in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.slow
@needs_compiler
def test_its_first_use_builds_it(cache: Cache, wheels: TvmWheels) -> None:
    """By the line that `doctor` gives, where the package's build has not done it."""
    code = """
import sys
from pathlib import Path
from ofa_compile.compiler.vulkan import plugin_build
plugin_build.LIBRARY = "no-library"
line = sys.argv[1]
exec(line)
import tvm_ffi
assert tvm_ffi.get_global_func("device_api.vulkan")
"""
    line = tvm_plugin.build_line().split("'")[1]
    done = subprocess.run([sys.executable, "-c", code, line], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    path = cache.get(tvm_plugin.NAMESPACE, plugin_key(wheels))
    assert path is not None
    assert plugin_key(wheels).encode() in path.read_bytes()


@pytest.mark.slow
@needs_compiler
def test_sources_compile_without_warnings(wheels: TvmWheels, tmp_path: Path) -> None:
    plugin_build._write_headers(tmp_path / "tvm" / "support")
    source = plugin_build.runtime_folder() / "vulkan_tvm.cc"
    command = ["g++", "-std=c++17", "-O2", "-Wall", "-Wextra", "-Wshadow", "-Werror"]
    command += ['-DOFA_PLUGIN_KEY="key"', "-isystem", str(tmp_path)]
    for folder in wheels.folders:
        command += ["-isystem", str(folder / "include")]
    command += ["-c", str(source), "-o", str(tmp_path / "object.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
