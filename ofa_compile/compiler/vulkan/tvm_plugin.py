"""Build and load the C++ part that makes Vulkan a device of TVM."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import BuildError, MissingDependencyError

NAMESPACE = "tvm-plugins"
_C_SOURCES = ("gpu_error.c", "vulkan_cache.c", "vulkan_device.c")
_SOURCE = "vulkan_tvm.cc"
_HEADERS = (
    "gpu_error.h",
    "vulkan_api.h",
    "vulkan_cache.h",
    "vulkan_device.h",
    "vulkan_tvm_gpu.h",
    "vulkan_tvm_memory.h",
)
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


def plugin_key() -> str:
    """Identity of the plug-in: its sources, and the very wheels whose C++ interface it uses."""
    folder = runtime_folder()
    versions = [importlib.metadata.version(name) for name in ("apache-tvm", "apache-tvm-ffi")]
    files = [(folder / name).read_bytes() for name in (*_C_SOURCES, _SOURCE, *_HEADERS)]
    return digest(platform.machine(), _STREAM, *versions, *files)


@functools.cache
def load_plugin() -> bool:
    """Load the plug-in where it has been built; TVM must be imported.

    Returns
    -------
    Whether it was there.
    """
    import tvm_ffi

    path = Cache().get(NAMESPACE, plugin_key())
    if path is None:
        return False
    # It may have come from another cache. A second one would throw an exception through the dynamic
    # loader, whose lock nobody could take from then on.
    if tvm_ffi.get_global_func("device_api.vulkan", allow_missing=True) is None:
        ctypes.CDLL(str(path), ctypes.RTLD_LOCAL)
    return True


def enable_vulkan() -> None:
    """Make Vulkan a device of TVM in this process and in later ones, building what that needs.

    Raises
    ------
    MissingDependencyError
        If there is no C++ compiler.
    BuildError
        If it fails.
    """
    if load_plugin():
        return
    Cache().put(NAMESPACE, plugin_key(), _build())
    load_plugin.cache_clear()
    load_plugin()


def _build() -> bytes:
    compiler = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        msg = "no C++ compiler, which the Vulkan device of TVM needs once"
        raise MissingDependencyError(msg, hint="sudo apt-get install g++")
    import tvm
    import tvm_ffi

    wheels = [Path(package.__file__).parent for package in (tvm, tvm_ffi)]
    includes = [f"-I{wheel / 'include'}" for wheel in wheels]
    with tempfile.TemporaryDirectory(prefix="ofa-plugin-") as temporary:
        folder = Path(temporary)
        for name in ("io.h", "serializer.h"):
            header = folder / "tvm" / "support" / name
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text(_STREAM if name == "io.h" else "#pragma once\n", encoding="utf-8")
        sources = runtime_folder()
        c_compiler = [compiler, "-x", "c", "-std=c11"]
        objects = []
        for name in _C_SOURCES:
            objects.append(f"{Path(name).stem}.o")
            flags = ["-O2", "-fPIC", "-fvisibility=hidden", "-c", str(sources / name)]
            _run([*c_compiler, *flags, "-o", objects[-1]], folder)
        command = [compiler, "-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"]
        command += [*includes, f"-I{sources}", "-I.", str(sources / _SOURCE), *objects]
        for wheel, library in zip(wheels, ("tvm_runtime", "tvm_ffi"), strict=True):
            command += [f"-L{wheel / 'lib'}", f"-l{library}"]
        _run([*command, "-ldl", "-pthread", "-o", "plugin.so"], folder)
        return (folder / "plugin.so").read_bytes()


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line][:3]
        msg = f"{command[0]} cannot build the Vulkan device of TVM: {' '.join(lines)}"
        raise BuildError(msg, hint="the plug-in fits the TVM that pyproject.toml pins, no other")
