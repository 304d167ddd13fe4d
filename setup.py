"""Builds the one part that is compiled: the C++ library that makes Vulkan a device of TVM.

It is optional: where it cannot be built, the package is installed without it and a warning says how
to add it. Everything else about the package is in pyproject.toml.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

if sys.version_info < (3, 11):  # noqa: UP036 - pip runs this before it looks at requires-python
    sys.exit("ofa-compile needs Python 3.11 or newer")

import tomllib

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))

from ofa_compile.compiler.vulkan import plugin_build  # noqa: E402
from ofa_compile.errors import OfaCompileError  # noqa: E402

# TVM may be installed already where the package will be; a build that pip isolates does not see it.
PLACES = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]


def pinned_tvm() -> list[str]:
    """Return the requirements of the package that say which TVM it works with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [each for each in project["dependencies"] if each.startswith("apache-tvm")]


def build_requirements() -> list[str]:
    """Return the TVM to fetch for its headers, unless it is there or no compiler could use it."""
    pins, wheels = pinned_tvm(), plugin_build.TvmWheels.find(PLACES)
    is_there = wheels is not None and set(wheels.requirements) == set(pins)
    return pins if plugin_build.has_compiler() and not is_there else []


class BuildPlugin(build_ext):
    """Builds the library as `ofa_compile` itself does later, and not as a module of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file's place in the package, the same for all versions of Python."""
        return str(Path(*fullname.split(".")).with_name(plugin_build.LIBRARY))

    def build_extension(self, ext: Extension) -> None:
        """Write the library; one that an editable installation has left in place may still fit."""
        library = Path(self.get_ext_fullpath(ext.name))
        try:
            data = self.library()
        except OfaCompileError as err:
            library.unlink(missing_ok=True)  # of an earlier build
            msg = f"{err} ({err.hint}; then install again, or let the first use build it)"
            raise CompileError(msg) from err
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_bytes(data)

    def library(self) -> bytes:
        """Return the library's content."""
        wheels = plugin_build.TvmWheels.find(PLACES)
        shipped = plugin_build.shipped_plugin(wheels) if wheels else None
        return shipped.read_bytes() if shipped else plugin_build.build_plugin(wheels)


class PlatformWheel(bdist_wheel):
    """Says that the library is for one platform, but for every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return (Python, its binary interface, platform)."""
        return "py3", "none", super().get_tag()[2]


PLUGIN = Extension(
    "ofa_compile.runtime.vulkan_tvm",
    [f"ofa_compile/runtime/{name}" for name in plugin_build.SOURCES],
    optional=True,
)

setup(
    ext_modules=[PLUGIN],
    setup_requires=build_requirements(),
    cmdclass={"build_ext": BuildPlugin, "bdist_wheel": PlatformWheel},
)
