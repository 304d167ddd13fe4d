"""ONNX file -> sources and kernels of a network for a GPU: everything before the link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.cache import Cache
from ofa_compile.compiler.emit_c import NetworkSource
from ofa_compile.compiler.gpu.backend import backend_of
from ofa_compile.compiler.gpu.kernels import compile_kernels, kernel_keys
from ofa_compile.compiler.gpu.lower import GpuHalfLowering, GpuLowering
from ofa_compile.compiler.gpu.tables import emit_tables
from ofa_compile.compiler.import_onnx import import_onnx
from ofa_compile.compiler.kernel_registry import Config, GpuMachine
from ofa_compile.compiler.objects import KernelObject
from ofa_compile.compiler.pipeline import GPU_PASSES, run_passes
from ofa_compile.compiler.plan import Plan
from ofa_compile.compiler.workload import Workload

if TYPE_CHECKING:
    from ofa_compile.hardware.target_spec import TargetSpec


def prepare_gpu(
    onnx_path: Path,
    target: TargetSpec,
    cache: Cache,
    version_of: Callable[[Plan], str],
    tuned: dict[str, dict[str, Any]],
    progress: Any,
) -> tuple[Plan, list[KernelObject], dict[int, str], NetworkSource]:
    """Import, rewrite, lower and generate code.

    Returns
    -------
    The plan, its objects, the symbol of every step's kernel, and the generated sources.
    """
    graph = import_onnx(onnx_path)
    run_passes(graph, GPU_PASSES)
    machine = GpuMachine.of(target)

    def choose_config(workload: Workload) -> Config | None:
        return tuned.get(workload.key)

    lowering = GpuHalfLowering if machine.value_type == "float16" else GpuLowering
    plan = lowering(graph, machine, choose_config, target.tvm_target).run()
    backend = backend_of(target)
    keys = kernel_keys(plan, backend, machine)
    distinct = dict(zip(keys, plan.steps, strict=True))
    objects = compile_kernels(distinct, backend, machine, cache, progress)
    paths = {key: item.path for key, item in objects.items()}
    source = emit_tables(
        plan,
        paths,
        keys,
        version_of(plan),
        backend.toolkit(),
        needs_halves=machine.value_type == "float16",
    )
    symbols = {number: objects[key].symbol for number, key in enumerate(keys)}
    return plan, list(objects.values()), symbols, source
