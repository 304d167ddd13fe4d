"""Load the C++ library that makes Vulkan a device of TVM, or build it where there is none yet.

Usually the package's own build has made it. Where that had no compiler, or saw another TVM than the
one that is installed now, the first use makes one and keeps it in the cache.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from ofa_compile.cache import Cache
from ofa_compile.compiler.vulkan.plugin_build import (
    COMPILER_HINT,
    TvmWheels,
    build_plugin,
    has_compiler,
    plugin_key,
    shipped_plugin,
)
from ofa_compile.errors import BuildError

NAMESPACE = "tvm-plugins"
_BUILD = f"{sys.executable} -c 'from {__name__} import enable_vulkan; enable_vulkan()'"

logger = logging.getLogger(__name__)


def find_plugins() -> Iterator[Path]:
    """Yield the libraries that fit these sources and the installed TVM, the package's own first."""
    wheels = TvmWheels.find()
    if wheels is None:
        return
    for path in (shipped_plugin(wheels), Cache().get(NAMESPACE, plugin_key(wheels))):
        if path is not None:
            yield path


def build_line() -> str:
    """Return the shell's line that adds the library where there is none."""
    return _BUILD if has_compiler() else f"{COMPILER_HINT} && {_BUILD}"


@functools.cache
def load_plugin() -> bool:
    """Load the library where it has been built; TVM must be imported.

    Returns
    -------
    Whether there was one that could be loaded.
    """
    for path in find_plugins():
        try:
            _load(path)
        except BuildError as err:  # built for another C library: `enable_vulkan` builds it again
            logger.info("%s", err)
        else:
            return True
    return False


def enable_vulkan() -> None:
    """Make Vulkan a device of TVM in this process and in later ones, building what that needs.

    Raises
    ------
    MissingDependencyError
        If there is no C++ compiler, or no TVM.
    BuildError
        If it cannot be built or loaded.
    """
    import tvm  # noqa: F401 - which loads the library that there is

    if load_plugin():
        return
    wheels = TvmWheels.find()
    data = build_plugin(wheels)
    assert wheels is not None
    _load(Cache().put(NAMESPACE, plugin_key(wheels), data))
    load_plugin.cache_clear()


def _load(path: Path) -> None:
    """Load a library, unless the device is there already.

    Its names would be registered twice, which throws an exception through the dynamic loader, whose
    lock nobody could take from then on.
    """
    import tvm_ffi

    if tvm_ffi.get_global_func("device_api.vulkan", allow_missing=True) is not None:
        return
    try:
        ctypes.CDLL(str(path), ctypes.RTLD_LOCAL)
    except OSError as err:
        msg = f"the Vulkan device of TVM is built and cannot be loaded: {err}"
        raise BuildError(msg, hint="delete that file, and it is built again") from err
