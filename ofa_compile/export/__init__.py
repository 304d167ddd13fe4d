"""Static subnet to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ofa_compile.export.onnx_export import export_onnx

__all__ = ["export_onnx"]


def __getattr__(name: str) -> Any:
    """Import torch and onnx only when something is exported: reading this package needs neither."""
    if name != "export_onnx":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from ofa_compile.export.onnx_export import export_onnx

    return export_onnx
