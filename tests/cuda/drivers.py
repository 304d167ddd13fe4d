"""Drivers to test with: NVIDIA's where there is a GPU, and otherwise one that uses the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from software_nvcc import precompile

from ofa_compile.compiler.link import runtime_folder
from ofa_compile.errors import DeviceUnavailableError
from ofa_compile.hardware.cuda_devices import check_cuda

HERE = Path(__file__).parent
NAME = "libcuda.so.1"
_NON_BLOCKING, _GLOBAL = 1, 0  # of streams, and of captures
CHOICE = "OFA_TEST_CUDA"
"""Variable of the environment: "software" keeps tests away from a GPU that is there."""


@dataclass(frozen=True)
class Driver:
    """A driver's library, with one before it that watches what is called.

    Attributes
    ----------
    path
        The library.
    watcher
        The other's folder; None where there is no C compiler.
    is_real
        Whether it is NVIDIA's.
    """

    path: Path
    watcher: Path | None
    is_real: bool

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses the driver and is watched."""
        own = {"LD_LIBRARY_PATH": self.library_path()}
        if self.watcher is not None:
            own = {"LD_LIBRARY_PATH": _search_path(self.watcher)}
            own["OFA_WATCHED_DRIVER"] = str(self.path)
        elif any(name.startswith("OFA_WATCH") for name in more):
            pytest.skip("no C compiler, and with it nothing that watches the driver")
        return {**os.environ, **own, **more}

    def library_path(self) -> str:
        """Return LD_LIBRARY_PATH of processes that use the driver unwatched."""
        return _search_path(self.path.parent)


class Context:
    """The first device's primary context, current in this thread; a `with` block gives it back."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL(NAME)

    def __enter__(self) -> Self:
        context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._call("cuCtxPushCurrent_v2", context)
        return self

    def __exit__(self, *_: object) -> None:
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
        self._call("cuDevicePrimaryCtxRelease_v2", 0)

    def free_bytes(self) -> int:
        """Return how much memory of the device nobody has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def take(self, num_bytes: int) -> int:
        """Allocate memory of the device; gone with the context, or when given back."""
        memory = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(num_bytes))
        return memory.value

    def give_back(self, memory: int) -> None:
        """Free what `take` returned."""
        self._call("cuMemFree_v2", ctypes.c_uint64(memory))

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Capture a graph in a stream of its own, as strictly as can be."""
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self._call("cuStreamBeginCapture_v2", stream, _GLOBAL)
        try:
            yield
        finally:
            self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
            self._call("cuGraphDestroy", graph)
            self._call("cuStreamDestroy_v2", stream)

    def _call(self, name: str, *arguments: Any) -> None:
        result = self._cuda[name](*arguments)
        assert result == 0, f"{name}: {result}"


def current_context() -> int | None:
    """Return this thread's context."""
    context = ctypes.c_void_p()
    assert ctypes.CDLL(NAME).cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value


def _search_path(folder: Path) -> str:
    return ":".join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH", "")]))


@functools.cache
def lacks_gpu() -> str | None:
    """Say why tests cannot use NVIDIA's driver; None if they can."""
    if os.environ.get(CHOICE) == "software":
        return f"{CHOICE} is 'software'"
    try:
        check_cuda()
    except DeviceUnavailableError as err:
        return f"{err}; {err.hint}"
    return None


def real_driver(folder: Path) -> Driver:
    """Return NVIDIA's, which this process has loaded."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    path = next(Path(line.split()[-1]) for line in maps.splitlines() if "/libcuda.so" in line)
    return Driver(path, build_watcher(folder), is_real=True)


def software_driver(folder: Path) -> Driver:
    """Build the one that uses the CPU, and load it: who asks for libcuda.so.1 here gets it."""
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    library = folder / NAME
    sources = [str(HERE / name) for name in ("software_driver.cc", "software_device.cc")]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", f"-I{runtime_folder()}"]
    flags += [f"-I{HERE}", f"-Wl,-soname,{NAME}", "-o", str(library)]
    subprocess.run(["g++", *flags, *sources], check=True)
    ctypes.CDLL(str(library))
    return Driver(library, build_watcher(folder / "watcher"), is_real=False)


def software_nvcc(folder: Path) -> None:
    """Put a compiler for that driver into `folder`, for CUDA_HOME."""
    precompile(folder)
    nvcc = folder / "bin" / "nvcc"
    nvcc.parent.mkdir()
    command = f'exec "{sys.executable}" -S "{HERE / "software_nvcc.py"}" "{folder}" "$@"'
    nvcc.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    nvcc.chmod(0o755)


def build_watcher(folder: Path) -> Path | None:
    """Build the library that watches what is called; return its folder."""
    if shutil.which("gcc") is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    lines = ['#include "watching_driver.h"']
    for name, types in driver_functions().items():
        parameters = ", ".join(f"{kind} p{n}" for n, kind in enumerate(types))
        values = ", ".join(f"p{n}" for n in range(len(types)))
        lines += [
            f"CUresult {name}({parameters}) {{",
            "    static int calls;",
            f"    static CUresult (*real)({', '.join(types)});",
            f'    CUresult wanted = watch("{name}", &calls, (void **)&real);',
            f"    return wanted != CUDA_SUCCESS ? wanted : real({values});",
            "}",
        ]
    (folder / "watcher.c").write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = ["-shared", "-fPIC", "-w", f"-Wl,-soname,{NAME}", f"-I{HERE}", f"-I{runtime_folder()}"]
    command = ["gcc", *flags, "watcher.c", "-o", NAME, "-ldl"]
    subprocess.run(command, check=True, cwd=folder)
    return folder


def driver_functions() -> dict[str, list[str]]:
    """Return the driver's functions that the run time calls, with the types of their parameters."""
    text = (runtime_folder() / "cuda_api.h").read_text(encoding="utf-8").replace("\\\n", " ")
    rows = re.findall(r'F\(\w+,\s*"(\w+)",\s*\(([^()]*)\)\)', text)
    return {name: [kind.strip() for kind in types.split(",")] for name, types in rows}
