"""`network.c`, kernels' objects and the run time's C sources -> shared library and executable."""

from __future__ import annotations

import importlib.resources
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ofa_compile.cache import Cache, digest
from ofa_compile.errors import BuildError
from ofa_compile.hardware.platform import Platform
from ofa_compile.hardware.toolchain import Toolchain

_EXECUTABLE_SOURCES = ("image.c", "options.c")
_ABI_SOURCES = ("subnet_abi.c",)
# These read the generated network_meta.h.
_META_SOURCES = ("main.c", "report.c")
_FLAGS = ("-std=c11", "-O2", "-fvisibility=hidden", "-ffunction-sections")

NAMESPACE = "networks"


@dataclass(frozen=True)
class Runtime:
    """What runs a network on one kind of machine.

    Attributes
    ----------
    sources
        C files of library and executable.
    has_static_executable
        Whether the executable needs nothing of the machine it runs on.
    embeds_objects
        Whether kernels are data that the network's C file includes, not code to link.
    libraries
        What to link with.
    """

    sources: tuple[str, ...]
    has_static_executable: bool
    embeds_objects: bool
    libraries: tuple[str, ...]


_ON_CPU = ("ofa_call.c", "ofa_pages.c", "ofa_run.c", "ofa_session.c", "ofa_weights.c")

CPU_RUNTIME = Runtime(
    sources=(*_ON_CPU, "ofa_pool.c"),
    has_static_executable=True,
    embeds_objects=False,
    libraries=("-lm",),
)
SINGLE_THREAD_RUNTIME = replace(CPU_RUNTIME, sources=(*_ON_CPU, "ofa_no_pool.c"))


def _gpu_runtime(*sources: str) -> Runtime:
    # A driver is a shared library, which a static executable cannot load.
    return Runtime(
        sources=("gpu_error.c", "gpu_session.c", "ofa_call.c", *sources),
        has_static_executable=False,
        embeds_objects=True,
        libraries=("-lm", "-ldl"),
    )


_GPU_RUNTIMES = {
    "vulkan": _gpu_runtime("vulkan_device.c", "vulkan_cache.c", "vulkan_program.c"),
    "cuda": _gpu_runtime("cuda_device.c", "cuda_program.c"),
}


def runtime_folder() -> Path:
    """Folder of the C sources, which ship as package data."""
    return Path(str(importlib.resources.files("ofa_compile.runtime")))


def object_name(path: Path) -> str:
    """Name under which the compiler finds an object, whatever the cache calls it."""
    return f"object_{path.name[:16]}.o"


def copy_launcher(platform: Platform, folder: Path) -> None:
    """Put what starts a program of the platform beside it, where it needs such a thing."""
    if platform.launcher:
        shutil.copyfile(runtime_folder() / platform.launcher, folder / platform.executable)


def runtime_of(kind: str, platform: Platform) -> Runtime:
    """Return what runs networks of a TVM target kind on a platform."""
    if kind == "llvm":
        return CPU_RUNTIME if platform.has_threads else SINGLE_THREAD_RUNTIME
    return _GPU_RUNTIMES[kind]


def _name_locally(path: Path, folder: Path) -> str:
    """Give a file of the cache a name in `folder`, so that no path of this machine is recorded."""
    name = object_name(path)
    (folder / name).symlink_to(path.absolute())
    return name


class Linker:
    """Compiles C with one tool chain, through the cache, and links."""

    def __init__(
        self,
        toolchain: Toolchain,
        cache: Cache,
        runtime: Runtime = CPU_RUNTIME,
        *,
        keep_symbols: bool = False,
    ) -> None:
        self.toolchain = toolchain
        self.platform = toolchain.platform
        self.compile_flags = (*_FLAGS, *self.platform.compile_flags)
        strip = () if keep_symbols else ("-Wl,-s",)
        self.link_flags = (*self.platform.link_flags, *toolchain.link_flags, *strip)
        self.runtime = runtime
        self.cache = cache
        self.sources = runtime_folder()
        headers = sorted(self.sources.glob("*.h"))
        self.identity = digest(
            toolchain.version(),
            *toolchain.command,
            *self.compile_flags,
            *(header.read_bytes() for header in headers),
        )

    def compile_network(self, network_c: str, weights: bytes, kernels: Sequence[Path]) -> Path:
        """Compile what `emit_network` made into an object, with the weights inside.

        Parameters
        ----------
        network_c, weights
            C source and the data that it includes.
        kernels
            Objects of the kernels, for sources that include them.

        Returns
        -------
        The object's file in the cache.

        Raises
        ------
        BuildError
            If the C compiler fails; the message holds what it printed.
        """
        embedded = kernels if self.runtime.embeds_objects else ()
        key = digest(self.identity, network_c, weights, *(path.name for path in embedded))
        cached = self.cache.get(NAMESPACE, key)
        if cached is not None:
            return cached
        with tempfile.TemporaryDirectory(prefix="ofa-link-") as temporary:
            folder = Path(temporary)
            (folder / "weights.bin").write_bytes(weights)
            (folder / "network.c").write_text(network_c, encoding="utf-8")
            for path in embedded:
                _name_locally(path, folder)
            command = [*self.toolchain.command, *self.compile_flags, f"-I{self.sources}"]
            self._run([*command, "-c", "network.c"], folder)
            return self.cache.put(NAMESPACE, key, (folder / "network.o").read_bytes())

    def link(
        self,
        output: Path,
        network: Path,
        kernels: Sequence[Path],
        symbol_prefix: str,
        network_meta: str | None,
    ) -> None:
        """Write the library, and with `network_meta` the executable, into `output`.

        Their names are the platform's.

        Parameters
        ----------
        output
            Existing folder.
        network, kernels
            What `compile_network` made, and the objects of the kernels.
        symbol_prefix
            Start of every exported name.
        network_meta
            Text of the header with preprocessing and labels, or None for the library alone.

        Raises
        ------
        BuildError
            If the C compiler or linker fails; the message holds what it printed.
        """
        with (
            tempfile.TemporaryDirectory(prefix="ofa-link-") as temporary,
            ThreadPoolExecutor(2) as pool,
        ):
            folder = Path(temporary)
            linked = () if self.runtime.embeds_objects else kernels
            objects = [_name_locally(path, folder) for path in (network, *linked)]

            def compile_all(
                names: Sequence[str], meta: str = "", defines: tuple[str, ...] = ()
            ) -> list[Future[str]]:
                compiled = self._compile_cached
                return [pool.submit(compiled, name, meta, defines, folder) for name in names]

            define = (f"-DOFA_PREFIX={symbol_prefix}",)
            shared = compile_all(self.runtime.sources) + compile_all(_ABI_SOURCES, "", define)
            own = []
            if network_meta is not None:
                own = compile_all(_EXECUTABLE_SOURCES) + compile_all(_META_SOURCES, network_meta)
            common = [job.result() for job in shared] + objects
            links = [pool.submit(self._link_library, output, common, symbol_prefix, folder)]
            if own:
                main = [job.result() for job in own]
                links.append(pool.submit(self._link_executable, output, main + common, folder))
            for job in links:
                job.result()

    def link_program(self, output: Path, network: Path, main: str) -> None:
        """Write an executable with a `main` of another purpose, for a run time that embeds kernels.

        Parameters
        ----------
        output
            Existing folder; the executable has the platform's name.
        network
            What `compile_network` made.
        main
            C source among those of the run time.

        Raises
        ------
        BuildError
            If the C compiler or linker fails; the message holds what it printed.
        """
        with tempfile.TemporaryDirectory(prefix="ofa-link-") as temporary:
            folder = Path(temporary)
            names = (*self.runtime.sources, main)
            objects = [self._compile_cached(name, "", (), folder) for name in names]
            self._link_executable(output, [*objects, _name_locally(network, folder)], folder)

    def _compile_cached(
        self, name: str, network_meta: str, defines: tuple[str, ...], folder: Path
    ) -> str:
        source = self.sources / name
        text = source.read_bytes()
        key = digest(self.identity, name, text, network_meta, *defines)
        object_name = f"{source.stem}.o"
        cached = self.cache.get("runtime", key)
        if cached is not None:
            (folder / object_name).symlink_to(cached.absolute())
            return object_name
        include = folder / f"include_{source.stem}"
        include.mkdir()
        if network_meta:
            (include / "network_meta.h").write_text(network_meta, encoding="utf-8")
        # Copied, so that no path of this machine can end up in the object.
        (folder / name).write_bytes(text)
        arguments = [*self.compile_flags, *defines, f"-I{include.name}", f"-I{self.sources}"]
        arguments += ["-c", name]
        self._run([*self.toolchain.command, *arguments, "-o", object_name], folder)
        self.cache.put("runtime", key, (folder / object_name).read_bytes())
        return object_name

    def _link_library(
        self, output: Path, objects: list[str], symbol_prefix: str, folder: Path
    ) -> None:
        flags = self.platform.library_flags
        if "-shared" in flags:
            script = folder / "exports.map"
            script.write_text(f"{{ global: {symbol_prefix}*; local: *; }};\n", encoding="utf-8")
            flags = (*flags, f"-Wl,--version-script={script.name}")
        target = (output / self.platform.library).resolve()
        command = [*self.toolchain.command, *flags, *self.link_flags, "-o", str(target)]
        self._run([*command, *objects, *self.runtime.libraries], folder)

    def _link_executable(self, output: Path, objects: list[str], folder: Path) -> None:
        target = (output / self.platform.program).resolve()
        driver = self.toolchain.command
        if self.runtime.has_static_executable:
            driver = self.toolchain.static_command
        flags = (*self.platform.program_flags, *self.link_flags)
        self._run([*driver, *flags, "-o", str(target), *objects, *self.runtime.libraries], folder)
        copy_launcher(self.platform, output)

    def _run(self, command: list[str], folder: Path) -> None:
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, check=False, timeout=900
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            msg = f"{command[0]} could not be run: {err}"
            raise BuildError(msg) from err
        if done.returncode != 0:
            msg = f"{self.toolchain.name} failed ({done.returncode}): {done.stderr.strip()[:2000]}"
            raise BuildError(msg)
