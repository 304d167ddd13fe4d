"""Kernel objects of a plan for Vulkan, from the cache or through GLSL and glslang.

An object is the SPIR-V with four numbers before it that the launcher needs: the number of buffers
and the grid (`vulkan_kernel_head` in runtime/vulkan_network.h).
"""

from __future__ import annotations

import json
import struct
from typing import Any

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.codegen import lower_kernel
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.objects import KernelObject, code_fingerprint
from ofa_compile.compiler.plan import Plan, Step
from ofa_compile.compiler.tvm_api import Target
from ofa_compile.compiler.vulkan.glsl import Shader, generate_glsl
from ofa_compile.compiler.vulkan.spirv import compile_glsl, find_glslang

NAMESPACE = "shaders"
_HEAD = struct.Struct("<4I")


def shader_key(step: Step) -> str:
    """Identity of a step's shader: workload, configuration, code and compiler."""
    config = json.dumps(step.config, sort_keys=True)
    return digest(step.workload.key, config, code_fingerprint(), find_glslang().version)


def compile_shaders(
    plan: Plan, machine: GpuMachine, cache: Cache, progress: Any = None
) -> dict[str, KernelObject]:
    """Return one object per distinct shader of the plan, by key, in order of first use.

    Raises
    ------
    BuildError
        If code generation fails.
    MissingDependencyError
        If there is no glslang.
    """
    done: dict[str, KernelObject] = {}
    distinct = {shader_key(step): step for step in plan.steps}
    for number, (key, step) in enumerate(distinct.items()):
        path = cache.get(NAMESPACE, key)
        was_cached = path is not None
        if path is None:
            path = cache.put(NAMESPACE, key, _compile(step, machine))
        done[key] = KernelObject(f"shader_{key[:16]}", path, was_cached)
        if progress is not None:
            progress("kernels", number + 1, len(distinct))
    return done


def _compile(step: Step, machine: GpuMachine) -> bytes:
    kernel = find_kernel(step.workload, "gpu")
    assert kernel is not None
    function = kernel.build(step.workload, step.config, machine)
    shader = generate_kernel(function, step.workload.kind)
    return pack_object(shader, compile_glsl(shader.source, step.workload.kind))


def generate_kernel(function: Any, name: str) -> Shader:
    """Lower one of our GPU kernels and generate its shader."""
    return generate_glsl(lower_kernel(name, function, Target("vulkan")))


def pack_object(shader: Shader, spirv: bytes) -> bytes:
    """Put the launcher's numbers before the SPIR-V."""
    assert shader.grid is not None
    return _HEAD.pack(len(shader.bindings), *shader.grid) + spirv


def spirv_of(data: bytes) -> bytes:
    """Return the SPIR-V of an object."""
    return data[_HEAD.size :]
