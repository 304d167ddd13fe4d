"""Objects of a plan's kernels, from the cache or from LLVM."""

from __future__ import annotations

import importlib.metadata
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.cache import Cache, digest, source_digest
from ofa_compile.compiler.link import runtime_folder
from ofa_compile.hardware.precision import value_type

if TYPE_CHECKING:
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.compiler.plan import Plan, Step
    from ofa_compile.hardware.target_spec import TargetSpec

NAMESPACE = "objects"
GPU_NAMESPACE = "gpu-kernels"


@dataclass(frozen=True)
class KernelObject:
    """One compiled workload."""

    symbol: str
    path: Path
    was_cached: bool


def code_fingerprint() -> str:
    """Hash of everything that decides what code a workload becomes: our sources and TVM's version.

    Read without importing TVM, so that a build from the cache stays quick.
    """
    parts = ("", ".passes", ".int8", ".gpu", ".vulkan", ".cuda")
    packages = ("ofa_compile.kernels", *(f"ofa_compile.compiler{part}" for part in parts))
    sources = source_digest(*packages)
    # The words of CUDA kernels are code as well.
    names = ("cuda_kernel.h", "cuda_half.h", "cuda_matrix.h")
    words = [(runtime_folder() / name).read_bytes() for name in names]
    return digest(importlib.metadata.version("apache-tvm"), sources, *words)


def object_key(step: Step, target: TargetSpec) -> str:
    """Identity of a step's object: workload, configuration, target and code."""
    return digest(
        step.workload.key,
        json.dumps(step.config, sort_keys=True),
        json.dumps(target.tvm_target, sort_keys=True),
        f"{target.core.vector_bits} {target.core.vector_registers} {bool(step.fetch_steps)}",
        value_type(target),
        code_fingerprint(),
    )


def symbol_of(step: Step, target: TargetSpec) -> str:
    """C symbol of a step's kernel."""
    return f"ofa_{step.workload.kind}_{object_key(step, target)[:16]}"


def compile_objects(
    plan: Plan, target: TargetSpec, machine: VectorMachine, cache: Cache, progress: Any = None
) -> list[KernelObject]:
    """Return one object per distinct kernel of the plan, compiling those not in the cache.

    Raises
    ------
    BuildError
        If code generation fails.
    """
    distinct = {object_key(step, target): step for step in plan.steps}
    found = {key: cache.get(NAMESPACE, key) for key in distinct}
    # LLVM, where nearly all of the time goes, does not hold the interpreter's lock.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        missing = [key for key, path in found.items() if path is None]
        jobs = {key: pool.submit(_compile, distinct[key], target, machine) for key in missing}
        try:
            for number, (key, job) in enumerate(jobs.items()):
                found[key] = cache.put(NAMESPACE, key, job.result())
                if progress is not None:
                    progress("kernels", number + 1, len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)
    return [
        KernelObject(symbol_of(distinct[key], target), path, key not in jobs)
        for key, path in found.items()
        if path is not None
    ]


def _compile(step: Step, target: TargetSpec, machine: VectorMachine) -> bytes:
    from ofa_compile.compiler.codegen import compile_object
    from ofa_compile.compiler.workload import Generic

    if isinstance(step.workload, Generic):
        from ofa_compile.compiler.generic import GENERIC_FUNCTIONS

        function = GENERIC_FUNCTIONS[step.workload.key]
    else:
        from ofa_compile.compiler.kernel_registry import find_kernel

        kernel = find_kernel(step.workload)
        assert kernel is not None
        options = {"fetches": True} if step.fetch_steps else {}
        function = kernel.build(step.workload, step.config, machine, **options)
    return compile_object({symbol_of(step, target): function}, target.tvm_target)
