"""Platforms: what a program and a library are on an operating system, whatever the processor.

A target names its platform by its LLVM triple, so a new processor under a known platform needs no
code. What differs between platforms is written down here, and nowhere else.
"""

from __future__ import annotations

import dataclasses

from ofa_compile.errors import TargetSpecError

# How GCC and QEMU call processors that LLVM calls otherwise.
_GNU_NAMES = {"armv7": "arm", "armv7a": "arm", "armv6": "arm"}
_QEMU_NAMES = {**_GNU_NAMES, "i686": "i386"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiler:
    """C compilers by name, best first, and what each of their calls gets."""

    names: tuple[str, ...]
    flags: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Platform:
    """Forms of programs and libraries.

    Attributes
    ----------
    name
        What it is called in messages.
    words
        Parts of a triple that mean this platform, by their beginning.
    program, library
        Names of what is linked.
    launcher
        File of the run time that starts the program, or empty where the system itself does. It
        lies beside the program under its name, with its own suffix.
    has_threads
        Whether programs can start threads.
    is_static
        Whether an executable can hold all it needs.
    is_hosted
        Whether programs run inside another one wherever they run (a WebAssembly engine), so that
        what runs them here is no emulator of something else.
    compile_flags, link_flags, program_flags, library_flags
        For the C compiler: objects, whatever is linked, executables, libraries.
    compilers, told
        C compilers that build for it, and the flags that tell them to: "{triple}" stands for the
        triple, "{gnu}" for its spelling in the names of compilers, "{arch}" for the processor.
    runs_with
        Command that runs programs of a foreign processor; "{arch}" is QEMU's name for it.
    """

    name: str
    words: tuple[str, ...]
    program: str = "subnet"
    library: str = "libsubnet.so"
    launcher: str = ""
    has_threads: bool = True
    is_static: bool = False
    is_hosted: bool = False
    compile_flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    program_flags: tuple[str, ...] = ()
    library_flags: tuple[str, ...] = ()
    compilers: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    runs_with: tuple[str, ...] = ()

    @property
    def executable(self) -> str:
        """Name of the file to start: the program, or what starts it."""
        if not self.launcher:
            return self.program
        return f"{self.program.partition('.')[0]}.{self.launcher.rpartition('.')[2]}"

    def compiler_of(self, triple: str) -> Compiler:
        """Return what usually builds C for a triple of this platform."""
        arch, _, rest = triple.partition("-")
        gnu = f"{_GNU_NAMES.get(arch, arch)}-{rest}"
        words = {"triple": triple, "gnu": gnu, "arch": arch}
        return Compiler(
            names=tuple(name.format(**words) for name in self.compilers),
            flags=tuple(flag.format(**words) for flag in self.told),
        )

    @property
    def files(self) -> tuple[str, ...]:
        """What a bundle holds of it: the file to start first, then what that needs."""
        return tuple(dict.fromkeys((self.executable, self.program, self.library)))


_ELF_COMPILE = ("-fPIC", "-pthread")
_ELF_LINK = ("-pthread", "-Wl,--gc-sections", "-Wl,--build-id=none")
_ELF_LIBRARY = ("-shared", "-Wl,-soname,libsubnet.so")

LINUX = Platform(
    name="linux",
    words=("linux",),
    is_static=True,
    compile_flags=_ELF_COMPILE,
    link_flags=_ELF_LINK,
    library_flags=_ELF_LIBRARY,
    compilers=("{gnu}-gcc", "gcc", "cc", "clang"),
    runs_with=("qemu-{arch}",),
)
# Bionic starts position-independent executables only, and its devices may have pages of 16 KiB
# ("Support 16 KB page sizes", developer.android.com).
ANDROID = Platform(
    name="android",
    words=("android",),
    compile_flags=_ELF_COMPILE,
    link_flags=(*_ELF_LINK, "-Wl,-z,max-page-size=16384"),
    program_flags=("-pie",),
    library_flags=_ELF_LIBRARY,
    # API level 24, Android 7: the oldest that is still of note.
    compilers=("$ANDROID_NDK/toolchains/llvm/prebuilt/linux-x86_64/bin/{triple}24-clang",),
)
# A command and a reactor of WASI preview 1. The library's user needs memory of it to pass arrays.
WASI = Platform(
    name="wasi",
    words=("wasi",),
    program="subnet.wasm",
    library="libsubnet.wasm",
    launcher="wasi_launcher.mjs",
    has_threads=False,
    is_hosted=True,
    compile_flags=("-DOFA_SINGLE_THREAD",),
    link_flags=("-Wl,--gc-sections",),
    library_flags=(
        "-mexec-model=reactor",
        "-Wl,--export=malloc",
        "-Wl,--export=free",
    ),
    compilers=("clang",),
    told=("--target={triple}",),
    runs_with=("node",),
)
# Android comes first: its triples say "linux" as well.
PLATFORMS = (ANDROID, WASI, LINUX)


def platform_of(triple: str) -> Platform:
    """Return the platform that an LLVM triple names; no triple stands for this machine's, Linux.

    Raises
    ------
    TargetSpecError
        If it names none that is known.
    """
    if not triple:
        return LINUX
    parts = triple.split("-")[1:]
    for platform in PLATFORMS:
        if any(part.startswith(platform.words) for part in parts):
            return platform
    known = ", ".join(sorted(platform.name for platform in PLATFORMS))
    message = f"the triple '{triple}' names no platform that is known; known are {known}"
    raise TargetSpecError(message, hint="for example aarch64-linux-gnu, or wasm32-wasi")


def emulator_of(triple: str) -> tuple[str, ...]:
    """Return the command that usually runs programs of a triple on another machine, or nothing."""
    arch = triple.split("-", 1)[0]
    name = _QEMU_NAMES.get(arch, arch)
    return tuple(word.format(arch=name) for word in platform_of(triple).runs_with)
