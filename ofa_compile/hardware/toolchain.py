"""Find the compiler that links for a target."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ofa_compile.errors import BuildError, MissingDependencyError
from ofa_compile.hardware.host import host_arch
from ofa_compile.hardware.platform import LINUX, Platform
from ofa_compile.hardware.target_spec import TargetSpec

ZIG = "ziglang"
# A bare name means the compiler for this machine; it cannot cross-compile.
_NATIVE_COMPILERS = ("cc", "gcc", "clang")
# Oldest glibc that aarch64 and every current x86-64 distribution satisfy.
_ZIG_GLIBC = "2.17"

_DEBIAN_PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "x86_64-linux-gnu-gcc": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
    "gcc": "gcc libc6-dev",
    "cc": "gcc libc6-dev",
    "clang": "clang libc6-dev",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross",
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
    "qemu-riscv64": "qemu-user",
    "qemu-x86_64": "qemu-user",
    "node": "nodejs",
    "wasm-ld": "clang lld wasi-libc libclang-rt-dev-wasm32",
    "glslangValidator": "glslang-tools",
    "nvcc": "nvidia-cuda-toolkit",
}
# What a bare clang needs besides itself, by platform.
_CLANG_PACKAGES = {"wasi": "clang lld wasi-libc libclang-rt-dev-wasm32"}
_VARIABLE_HINTS = {
    "ANDROID_NDK": "unpack Android's NDK (developer.android.com/ndk/downloads) and"
    " export ANDROID_NDK=/path/to/android-ndk-r27",
    "ANDROID_SYSTEM": "export ANDROID_SYSTEM=/path/to/folder that holds system/bin/linker64 and"
    " system/lib64/libc.so, libm.so and libdl.so of a phone (adb pull)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Toolchain:
    """A C compiler driver that compiles and links for one target.

    Attributes
    ----------
    name
        The entry of `toolchain.linkers` it came from.
    command
        Driver and its leading arguments, for objects and shared libraries (glibc).
    static_command
        Driver and its leading arguments, for executables that hold all they need: with
        ``-static`` where the platform has such.
    link_flags
        What the target adds to every link.
    platform
        What it links for.
    """

    name: str
    command: tuple[str, ...]
    static_command: tuple[str, ...]
    link_flags: tuple[str, ...] = ()
    platform: Platform = LINUX

    @property
    def is_zig(self) -> bool:
        """Whether this is the ziglang package's compiler (static executables then use musl)."""
        return self.name == ZIG

    def version(self) -> str:
        """First line the driver prints about its version.

        Raises
        ------
        BuildError
            If the driver cannot be run.
        """
        if self.is_zig:
            return f"zig {_first_line((*self.command[:3], 'version'))}"
        return _first_line((self.command[0], "--version"))


@functools.cache
def _first_line(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as err:
        message = f"{' '.join(command[:-1])} cannot be run: {err}"
        raise BuildError(message) from err
    return done.stdout.splitlines()[0] if done.stdout else ""


def find_linker(target: TargetSpec) -> Toolchain:
    """Return the first of the target's `toolchain.linkers` that this machine has.

    Raises
    ------
    MissingDependencyError
        If it has none; the hint is the line that installs one.
    """
    spec = target.toolchain
    found = find_linker_among(
        spec.linkers, target.arch, target.name, flags=spec.flags, platform=target.platform
    )
    return dataclasses.replace(found, link_flags=spec.link_flags)


def find_linker_among(
    linkers: Sequence[str],
    arch: str,
    target: str,
    *,
    flags: Sequence[str] = (),
    platform: Platform = LINUX,
) -> Toolchain:
    """Return the first of `linkers` that this machine has for an architecture.

    Parameters
    ----------
    linkers
        Names or paths; "$NAME" in one stands for an environment variable.
    arch, target
        Architecture, and the target's name for messages.
    flags
        What every call of the compiler gets first.
    platform
        What to link for.

    Raises
    ------
    MissingDependencyError
        If it has none; message and hint name the target.
    """
    for name in linkers:
        found = _find_one(name, arch, flags, platform)
        if found is not None:
            return found
    names = ", ".join(linkers) or "nothing ('toolchain.linkers' is empty)"
    message = f"no compiler that can link for target '{target}'; looked for {names}"
    named = list(dict.fromkeys(name for entry in linkers for name in variables(entry)))
    if named:
        message += f" ({about_variables(named)})"
    hint = variable_hint(named) or _linker_hint(linkers, arch, platform)
    raise MissingDependencyError(message, hint=hint)


def install_hint(program: str) -> str:
    """Return the line that installs a program."""
    if program == ZIG:
        return f"{sys.executable} -m pip install ziglang"
    package = _DEBIAN_PACKAGES.get(program)
    if package is None:
        return f"install '{program}' and put it on PATH"
    return f"sudo apt-get install {package}"


def _linker_hint(linkers: Sequence[str], arch: str, platform: Platform) -> str:
    """Name the system package if one is known, and the pip package where it is allowed."""
    if platform.name in _CLANG_PACKAGES:
        return f"sudo apt-get install {_CLANG_PACKAGES[platform.name]}"
    lines = [install_hint(n) for n in linkers if n in _DEBIAN_PACKAGES]
    lines = [line for line in lines if arch == host_arch() or "-linux-gnu" in line][:1]
    if ZIG in linkers:
        lines.append(install_hint(ZIG))
    return ", or: ".join(lines) or "add one to 'toolchain.linkers' in the target's file"


def variables(entry: str) -> list[str]:
    """Return the environment variables that a word of a target's file names, as "$NAME"."""
    return string.Template(entry).get_identifiers()


def variable_hint(names: Sequence[str]) -> str | None:
    """Return how to set the first of some environment variables that has a known use."""
    return next((_VARIABLE_HINTS[name] for name in names if name in _VARIABLE_HINTS), None)


def about_variables(names: Sequence[str]) -> str:
    """Say which of them are set, and that nothing was found there; or that none is."""
    found = [f"{name} is '{os.environ[name]}'" for name in names if name in os.environ]
    if found:
        return f"{', '.join(found)}: no such file there"
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not set"


def _find_one(entry: str, arch: str, flags: Sequence[str], platform: Platform) -> Toolchain | None:
    """Look for one compiler; bare names count only where they build for the target."""
    if entry == ZIG:
        return _find_zig(arch, flags, platform)
    is_bare = re.sub(r"-\d+$", "", entry) in _NATIVE_COMPILERS
    is_told = any(flag.startswith("--target=") for flag in flags)
    if is_bare and not is_told and (arch != host_arch() or platform is not LINUX):
        return None
    path = shutil.which(string.Template(entry).safe_substitute(os.environ))
    if path is None:
        return None
    static = ("-static",) if platform.is_static else ()
    return Toolchain(
        name=Path(path).name if "$" in entry else entry,
        command=(path, *flags),
        static_command=(path, *flags, *static),
        platform=platform,
    )


def _find_zig(arch: str, flags: Sequence[str], platform: Platform) -> Toolchain | None:
    if importlib.util.find_spec(ZIG) is None or platform is not LINUX:
        return None
    # zig's debug default would trap on what C leaves undefined and record source paths.
    common = ("-fno-sanitize=undefined", "-g0", *flags)
    driver = (sys.executable, "-m", ZIG, "cc", "-target")
    return Toolchain(
        name=ZIG,
        command=(*driver, f"{arch}-linux-gnu.{_ZIG_GLIBC}", *common),
        static_command=(*driver, f"{arch}-linux-musl", *common, "-static"),
    )
