"""Compile the C++ library that makes Vulkan a device of TVM.

`setup.py` does so when the package is built, and `tvm_plugin.py` later where that was not possible.
Only TVM's files are read: importing it would load the library that is to be built.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_compile.cache import digest
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import BuildError, MissingDependencyError

LIBRARY = "libvulkan_tvm.so"
SOURCES = ("gpu_error.c", "vulkan_cache.c", "vulkan_device.c", "vulkan_tvm.cc")
_HEADERS = (
    "gpu_error.h",
    "vulkan_api.h",
    "vulkan_cache.h",
    "vulkan_device.h",
    "vulkan_tvm_gpu.h",
    "vulkan_tvm_kernel.h",
    "vulkan_tvm_memory.h",
)
COMPILER_HINT = "sudo apt-get install g++"
_COMPILERS = ("g++", "c++", "clang++")
_WHEELS = {"apache-tvm": "tvm", "apache-tvm-ffi": "tvm_ffi"}
# The wheel's headers include this file, which it lacks; nothing of it is used here.
_STREAM = """\
#pragma once
#include <cstddef>
namespace tvm {
namespace support {
class Stream {
 public:
  virtual ~Stream() = default;
  virtual size_t Read(void *data, size_t bytes) = 0;
  virtual size_t Write(const void *data, size_t bytes) = 0;
  template <typename T> bool Read(T *value) { return Read((void *)value, sizeof(T)) == sizeof(T); }
  template <typename T> void Write(const T &value) { Write((const void *)&value, sizeof(T)); }
  template <typename T> bool ReadArray(T *values, size_t count) {
    return Read((void *)values, count * sizeof(T)) == count * sizeof(T);
  }
  template <typename T> void WriteArray(const T *values, size_t count) {
    Write((const void *)values, count * sizeof(T));
  }
};
}  // namespace support
}  // namespace tvm
"""


@dataclass(frozen=True)
class TvmWheels:
    """The two wheels whose C++ interface the library uses, as they lie on the disk.

    Attributes
    ----------
    folders
        Their packages: headers in `include/`, libraries in `lib/`.
    requirements
        What pip would be asked for to get the same, such as `apache-tvm==0.27.0.post1`.
    """

    folders: tuple[Path, ...]
    requirements: tuple[str, ...]

    @classmethod
    def find(cls, path: Sequence[str] | None = None) -> TvmWheels | None:
        """Return those that an interpreter with this `sys.path` would import, or None."""
        folders, requirements = [], []
        for name, package in _WHEELS.items():
            found = importlib.metadata.distributions(name=name, path=list(path or sys.path))
            distribution = next(iter(found), None)
            if distribution is None:
                return None
            folders.append(Path(str(distribution.locate_file(package))))
            requirements.append(f"{name}=={distribution.version}")
        return cls(tuple(folders), tuple(requirements))


def plugin_key(wheels: TvmWheels) -> str:
    """Identity of the library: its sources, how it is built, and the very wheels it fits.

    The library holds it, too: see `shipped_plugin`.
    """
    paths = [runtime_folder() / name for name in (*SOURCES, *_HEADERS)]
    files = [path.read_bytes() for path in (*paths, Path(__file__))]
    return digest(platform.machine(), *wheels.requirements, *files)


def shipped_plugin(wheels: TvmWheels) -> Path | None:
    """Return the library that the package's own build has made, if it fits, else None."""
    path = runtime_folder() / LIBRARY
    try:
        return path if plugin_key(wheels).encode() in path.read_bytes() else None
    except OSError:
        return None


def has_compiler() -> bool:
    """Whether `build_plugin` would find a compiler."""
    return any(map(shutil.which, _COMPILERS))


def build_plugin(wheels: TvmWheels | None) -> bytes:
    """Compile the library, which takes some seconds, and return it.

    Raises
    ------
    MissingDependencyError
        If there is no C++ compiler, or no TVM.
    BuildError
        If it fails.
    """
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        msg = "no C++ compiler, which the Vulkan device of TVM needs once"
        raise MissingDependencyError(msg, hint=COMPILER_HINT)
    if wheels is None:
        msg = f"the Vulkan device of TVM needs the files of {' and '.join(_WHEELS)}"
        raise MissingDependencyError(msg, hint="install both, as pyproject.toml names them")
    sources = runtime_folder()
    # Errors name source files, and the folders of a build mean nothing elsewhere.
    folders = [sources, *(wheel.parent for wheel in wheels.folders)]
    common = ["-O2", "-fPIC", "-fvisibility=hidden"]
    common += [f"-ffile-prefix-map={folder}/=" for folder in folders]
    with tempfile.TemporaryDirectory(prefix="ofa-plugin-") as temporary:
        folder = Path(temporary)
        _write_headers(folder / "tvm" / "support")
        objects = [f"{Path(name).stem}.o" for name in SOURCES[:-1]]
        for name, output in zip(SOURCES[:-1], objects, strict=True):
            command = [compiler, "-x", "c", "-std=c11", *common, "-c", str(sources / name)]
            _run([*command, "-o", output], folder)
        command = [compiler, "-std=c++17", "-shared", *common]
        command += [f'-DOFA_PLUGIN_KEY="{plugin_key(wheels)}"', f"-I{sources}", "-I."]
        command += [f"-I{wheel / 'include'}" for wheel in wheels.folders]
        command += [str(sources / SOURCES[-1]), *objects]
        for wheel, library in zip(wheels.folders, ("tvm_runtime", "tvm_ffi"), strict=True):
            command += [f"-L{wheel / 'lib'}", f"-l{library}"]
        _run([*command, "-ldl", "-pthread", "-o", LIBRARY], folder)
        return (folder / LIBRARY).read_bytes()


def _write_headers(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "io.h").write_text(_STREAM, encoding="utf-8")
    (folder / "serializer.h").write_text("#pragma once\n", encoding="utf-8")


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line][:3]
        msg = f"{command[0]} cannot build the Vulkan device of TVM: {' '.join(lines)}"
        raise BuildError(msg, hint="the plug-in fits the TVM that pyproject.toml pins, no other")
