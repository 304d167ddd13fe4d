"""From one trained Once-for-All supernet to a small verified binary for any piece of hardware.

The names in `__all__` are the stable Python API. They are resolved on first use, so importing this
package loads neither torch nor TVM.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofa_compile.bundle.bundle import Bundle, load_bundle
    from ofa_compile.errors import OfaCompileError
    from ofa_compile.export.onnx_export import export_onnx
    from ofa_compile.hardware.target_spec import TargetSpec, list_targets, load_target
    from ofa_compile.pipeline import compile
    from ofa_compile.search.search import search
    from ofa_compile.space.architecture import Architecture
    from ofa_compile.space.registry import search_space, search_spaces
    from ofa_compile.supernet.checkpoint import load_supernet

__version__ = "0.1.0"

_HOME = {
    "Architecture": "ofa_compile.space.architecture",
    "Bundle": "ofa_compile.bundle.bundle",
    "OfaCompileError": "ofa_compile.errors",
    "TargetSpec": "ofa_compile.hardware.target_spec",
    "compile": "ofa_compile.pipeline",
    "export_onnx": "ofa_compile.export.onnx_export",
    "list_targets": "ofa_compile.hardware.target_spec",
    "load_bundle": "ofa_compile.bundle.bundle",
    "load_supernet": "ofa_compile.supernet.checkpoint",
    "load_target": "ofa_compile.hardware.target_spec",
    "search": "ofa_compile.search.search",
    "search_space": "ofa_compile.space.registry",
    "search_spaces": "ofa_compile.space.registry",
}

__all__ = [
    "Architecture",
    "Bundle",
    "OfaCompileError",
    "TargetSpec",
    "__version__",
    "compile",
    "export_onnx",
    "list_targets",
    "load_bundle",
    "load_supernet",
    "load_target",
    "search",
    "search_space",
    "search_spaces",
]


def __getattr__(name: str) -> Any:
    """Import the module behind a public name on first use."""
    if name not in _HOME:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, also those not loaded yet."""
    return sorted(__all__)
