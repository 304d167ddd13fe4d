"""Vulkan as a target of the unmodified TVM wheel, through its `tvm.backends` entry point.

`tvm.compile`, `export_library`, the Relax VM, `time_evaluator` and MetaSchedule then work with
`vulkan_target()`. Code generation needs Python and glslang; running needs a C++ compiler once.
"""

from __future__ import annotations

import struct
from typing import Any

from ofa_compile.errors import BuildError

_MAGIC = b"ofa-vulkan-1"
_SCALARS = {"int32": 1, "uint32": 2, "bool": 1, "float32": 3}
_BUFFER = 0
_GRID = {f"blockIdx.{letter}": index for index, letter in enumerate("xyz")}
_IGNORED = 255
# Types that need no optional feature of a device.
_TYPES = frozenset({"float32", "int32", "uint32", "bool"})


def autoload() -> None:
    """Register the code generator, and the device where its plug-in has been built.

    TVM calls this at the end of its own import.
    """
    import tvm_ffi

    from ofa_compile.compiler.vulkan.tvm_plugin import load_plugin

    tvm_ffi.register_global_func("target.build.vulkan", _build, override=True)
    load_plugin()


def vulkan_target(**changes: Any) -> Any:
    """Return the TVM target that every Vulkan device can run, changed as told.

    Code for it can be compiled anywhere; to run it here, the plug-in is built if need be.

    Raises
    ------
    MissingDependencyError, BuildError
        If the plug-in has to be built and cannot be.
    """
    import tvm

    from ofa_compile.compiler.vulkan.tvm_plugin import enable_vulkan
    from ofa_compile.hardware.target_spec import load_target

    enable_vulkan()
    spec = {**load_target("vulkan").tvm_target, "thread_warp_size": 1, **changes}
    return tvm.target.Target(spec, host={"kind": "llvm"})


def _build(module: Any, target: Any) -> Any:
    """Compile the device functions of a module (what TVM calls `target.build.vulkan`)."""
    import tvm

    from ofa_compile.compiler.vulkan.tvm_plugin import enable_vulkan

    enable_vulkan()
    module = tvm.tirx.transform.ForceNarrowIndexToInt32()(module)
    kernels = [_pack_kernel(str(name.name_hint), f) for name, f in module.functions.items()]
    data = _bytes(_MAGIC) + struct.pack("<I", len(kernels)) + b"".join(kernels)
    return tvm.get_global_func("ffi.Module.load_from_bytes.vulkan")(data)


def _pack_kernel(name: str, function: Any) -> bytes:
    from ofa_compile.compiler.vulkan.glsl import generate_glsl
    from ofa_compile.compiler.vulkan.spirv import compile_glsl

    attributes = function.attrs
    if "global_symbol" in attributes:
        name = str(attributes["global_symbol"])
    shader = generate_glsl(function)
    refused = sorted(shader.base_types - _TYPES)
    if refused:
        msg = f"kernel {name} works on {', '.join(refused)}; Vulkan code here takes float32, "
        msg += "int32, uint32 and bool"
        raise BuildError(msg)
    scalars = iter(shader.scalars)
    parameters = [
        _BUFFER if is_buffer else _SCALARS[next(scalars)] for is_buffer in shader.parameters
    ]
    # The host passes one extent for each launch tag behind the parameters.
    launch = [_GRID.get(str(tag), _IGNORED) for tag in attributes["tirx.kernel_launch_params"]]
    spirv = compile_glsl(shader.text, name)
    return b"".join(
        (
            _bytes(name.encode()),
            _words(parameters),
            _words(launch),
            struct.pack("<I", shader.is_folded),
            _bytes(shader.text.encode()),
            _bytes(spirv),
        )
    )


def _bytes(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _words(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values) + 1}I", len(values), *values)
