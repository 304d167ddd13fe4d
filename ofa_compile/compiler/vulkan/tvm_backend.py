"""Vulkan as a target of the unmodified TVM wheel, through its `tvm.backends` entry point.

`tvm.compile`, `export_library`, the Relax VM, `time_evaluator` and MetaSchedule then work with
`vulkan_target()`. Code generation needs glslang; the device is a library that tvm_plugin.py loads.
"""

from __future__ import annotations

import struct
from itertools import product
from typing import TYPE_CHECKING, Any

from ofa_compile.errors import BuildError

if TYPE_CHECKING:
    from ofa_compile.compiler.gpu.source import KernelSource

_MAGIC = b"ofa-vulkan-3"
_SCALARS = {"int32": 1, "uint32": 2, "bool": 1, "float32": 3}
_BUFFER = 0
_LAUNCH = {
    f"{kind}Idx.{axis}": i for i, (kind, axis) in enumerate(product(("block", "thread"), "xyz"))
}
_IGNORED = 255
# Types that every device has, and one that the device must have when such a kernel is run.
_HALVES = "float16"
_TYPES = frozenset({"float32", "int32", "uint32", "bool", _HALVES})


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
    _check_types(name, shader)
    scalars = iter(shader.scalars)
    parameters = [
        _BUFFER if is_buffer else _SCALARS[next(scalars)] for is_buffer in shader.parameters
    ]
    # The host passes one extent for each launch tag behind the parameters.
    launch = [_LAUNCH.get(str(tag), _IGNORED) for tag in attributes["tirx.kernel_launch_params"]]
    spirv = compile_glsl(shader.text, name)
    return b"".join(
        (
            _bytes(name.encode()),
            _words(parameters),
            _words(launch),
            struct.pack("<II", shader.is_folded, _HALVES in shader.base_types),
            _bytes(shader.text.encode()),
            _bytes(spirv),
        )
    )


def _check_types(name: str, shader: KernelSource) -> None:
    """Refuse what devices may lack, or what cannot be passed."""
    refused = sorted(shader.base_types - _TYPES)
    if refused:
        msg = f"kernel {name} works on {', '.join(refused)}; Vulkan code here takes float32, "
        msg += "float16, int32, uint32 and bool"
        raise BuildError(msg)
    refused = sorted(set(shader.scalars) - set(_SCALARS))
    if refused:
        msg = f"kernel {name} takes a number of {', '.join(refused)}, which Vulkan cannot pass"
        raise BuildError(msg, hint="pass it as float32, or in a buffer of one value")


def _bytes(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _words(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values) + 1}I", len(values), *values)
