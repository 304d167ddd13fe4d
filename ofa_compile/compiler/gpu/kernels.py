"""Kernel objects of a plan for a GPU, from the cache or through its compiler."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.codegen import lower_kernel
from ofa_compile.compiler.gpu.backend import Backend
from ofa_compile.compiler.gpu.generic import GENERIC_LAUNCHES, launch_key
from ofa_compile.compiler.gpu.objects import pack_object
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine, find_kernel
from ofa_compile.compiler.objects import GPU_NAMESPACE, KernelObject, code_fingerprint
from ofa_compile.compiler.plan import Plan, Step
from ofa_compile.compiler.tvm_api import Target
from ofa_compile.compiler.workload import Generic, Workload


def kernel_keys(plan: Plan, backend: Backend, machine: GpuMachine) -> list[str]:
    """Return the identity of every step's kernel: workload, configuration, code and compiler.

    Raises
    ------
    MissingDependencyError
        If the compiler is not installed.
    """
    toolkit = backend.toolkit()
    code = digest(code_fingerprint(), toolkit.version, toolkit.architectures)
    return [
        digest(launch_key(step.workload, step.config, step.launch), machine.value_type, code)
        for step in plan.steps
    ]


def compile_kernels(
    steps: Mapping[str, Step],
    backend: Backend,
    machine: GpuMachine,
    cache: Cache,
    progress: Any = None,
) -> dict[str, KernelObject]:
    """Return one object per distinct kernel, by key.

    Parameters
    ----------
    steps
        Key -> a step that runs the kernel.
    backend, machine
        What to compile with, and for.
    cache
        Where objects are kept.
    progress
        Called as (what, done, total) while kernels are compiled.

    Raises
    ------
    BuildError
        If code generation fails.
    """
    found = {key: cache.get(GPU_NAMESPACE, key) for key in steps}
    missing = [key for key, path in found.items() if path is None]
    # The compiler is a process of its own for every kernel; TVM stays in this thread.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        jobs = {key: _start(steps[key], backend, machine, pool) for key in missing}
        for number, (key, job) in enumerate(jobs.items()):
            found[key] = cache.put(GPU_NAMESPACE, key, job.result())
            if progress is not None:
                progress("kernels", number + 1, len(missing))
    return {
        key: KernelObject(f"{steps[key].workload.kind}_{key[:16]}", path, key not in jobs)
        for key, path in found.items()
        if path is not None
    }


def _start(
    step: Step, backend: Backend, machine: GpuMachine, pool: ThreadPoolExecutor
) -> Future[bytes]:
    """Generate a step's kernel, and let the pool compile it."""
    name = step.workload.kind
    source = generate_step(step, backend, machine)
    return pool.submit(lambda: pack_object(source, name, backend.compile(source.text, name)))


def generate_step(step: Step, backend: Backend, machine: GpuMachine) -> KernelSource:
    """Generate the text of a step's kernel, whoever wrote it."""
    name = step.workload.kind
    if isinstance(step.workload, Generic):
        key = launch_key(step.workload, step.config, step.launch)
        return backend.generate(GENERIC_LAUNCHES[key], name)
    kernel = find_kernel(step.workload, "gpu")
    assert kernel is not None
    return generate_kernel(kernel.build(step.workload, step.config, machine), name, backend)


def compile_workload(work: Workload, backend: Backend, machine: GpuMachine) -> bytes:
    """Compile a workload's kernel in its first configuration.

    Raises
    ------
    BuildError
        If code generation fails.
    """
    kernel = find_kernel(work, "gpu")
    assert kernel is not None
    function = kernel.build(work, kernel.configs(work, machine)[0], machine)
    return backend.compile(generate_kernel(function, work.kind, backend).text, work.kind)


def generate_kernel(function: Any, name: str, backend: Backend) -> KernelSource:
    """Lower one of our GPU kernels and generate its text, if it is not text already."""
    if isinstance(function, KernelSource):
        return function
    # TVM's rules for CUDA would put C names such as `expf` in; those for Vulkan leave all as it is.
    return backend.generate(lower_kernel(name, function, Target("vulkan")), name)
