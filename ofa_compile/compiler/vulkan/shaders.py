"""Kernel objects of a plan for Vulkan, from the cache or through GLSL and glslang.

An object is the SPIR-V with four numbers before it that the launcher needs: the number of buffers
and the grid (`vulkan_kernel_head` in runtime/vulkan_network.h).
"""

from __future__ import annotations

import json
import os
import struct
from concurrent.futures import Future, ThreadPoolExecutor
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
    distinct = {shader_key(step): step for step in plan.steps}
    found = {key: cache.get(NAMESPACE, key) for key in distinct}
    missing = [key for key, path in found.items() if path is None]
    # glslang is a process of its own for every shader; TVM stays in this thread.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = {key: _start(distinct[key], machine, pool) for key in missing}
        for number, (key, job) in enumerate(jobs.items()):
            found[key] = cache.put(NAMESPACE, key, job.result())
            if progress is not None:
                progress("shaders", number + 1, len(missing))
    return {
        key: KernelObject(f"shader_{key[:16]}", path, key not in jobs)
        for key, path in found.items()
        if path is not None
    }


def _start(step: Step, machine: GpuMachine, pool: ThreadPoolExecutor) -> Future[bytes]:
    """Generate a step's shader, and let the pool compile it."""
    kernel = find_kernel(step.workload, "gpu")
    assert kernel is not None
    name = step.workload.kind
    shader = generate_kernel(kernel.build(step.workload, step.config, machine), name)
    return pool.submit(lambda: pack_object(shader, compile_glsl(shader.source, name)))


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
