"""Worker process that builds candidates: TVM is imported once, then many are built.

Run as a module by `BuilderPool`; it reads workloads and configurations and writes libraries.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ofa_compile.cache import Cache
from ofa_compile.compiler.kernel_registry import VectorMachine
from ofa_compile.compiler.workload import Generic, Workload, workload_from_dict
from ofa_compile.tuning.serve import Reply, keep_torch_out, serve_all

_LINK = ("-shared", "-Wl,--build-id=none")


def main() -> None:
    """Serve `network`, `describe`, `propose` and `build` requests."""
    keep_torch_out()
    serve_all({"network": _network, "describe": _describe, "propose": _propose, "build": _build})


def _network(request: dict[str, Any], reply: Reply) -> None:
    """Reply with the workloads of an ONNX file, and how often it has each."""
    from ofa_compile.compiler.build import lower_onnx
    from ofa_compile.compiler.int8.prepare import noise
    from ofa_compile.compiler.onnx_file import load_onnx

    path, calibration = Path(request["path"]), None
    if request["precision"] == "int8":
        shape = load_onnx(path).graph.input[0].type.tensor_type.shape
        calibration = noise(tuple(size.dim_value for size in shape.dim[1:]))
    machine = VectorMachine(**request["machine"])
    plan = lower_onnx(path, machine, Cache(), lambda workload: None, calibration)
    counts = Counter(step.workload for step in plan.steps)
    reply(workloads=[[workload.to_dict(), count] for workload, count in counts.items()])


def _describe(request: dict[str, Any], reply: Reply) -> None:
    """Reply with the configurations of each workload."""
    reply(configs=[_configs(workload_from_dict(w), request) for w in request["workloads"]])


def _configs(workload: Workload, request: dict[str, Any]) -> list[dict[str, Any]]:
    from ofa_compile.compiler.kernel_registry import find_kernel

    if isinstance(workload, Generic):
        return [{}]  # TVM's plain loops
    kernel = find_kernel(workload)
    return (
        [dict(c) for c in kernel.configs(workload, VectorMachine(**request["machine"]))]
        if kernel
        else []
    )


def _propose(request: dict[str, Any], reply: Reply) -> None:
    """Reply with schedules that MetaSchedule expects to be fast."""
    from ofa_compile.compiler.generic_schedules import parse_function
    from ofa_compile.compiler.schedule_search import cpu_space, search

    workload = workload_from_dict(request["workload"])
    assert isinstance(workload, Generic)
    traces = search(
        parse_function(workload.tir),
        cpu_space(request["tvm_target"]),
        request["count"],
        seed=int(workload.key, 16),
        measured=request["measured"],
    )
    reply(configs=[{"trace": trace} for trace in traces])


def _build(request: dict[str, Any], reply: Reply) -> None:
    """Write one library with all configurations, and the data to run them on."""
    from ofa_compile.compiler.codegen import compile_object
    from ofa_compile.tuning.candidates import GenericCandidates, KernelCandidates

    workload = workload_from_dict(request["workload"])
    machine = VectorMachine(**request["machine"])
    prefix = request["prefix"]
    made = (
        GenericCandidates(workload, request["configs"], prefix)
        if isinstance(workload, Generic)
        else KernelCandidates(workload, request["configs"], machine, prefix)
    )
    folder = Path(request["folder"])
    library = reference = folder / "kernels.so"
    objects = library.with_suffix(".o")
    objects.write_bytes(compile_object(made.functions, request["tvm_target"]))
    if request["is_native"]:
        link_shared(request["linker"], [objects], library)
    elif made.reference:
        # What is right has to be computed here.
        reference = folder / "reference.so"
        objects = reference.with_suffix(".o")
        objects.write_bytes(compile_object(made.reference, request["host_target"]))
        link_shared(request["host_linker"], [objects], reference)
    arrays, candidates = made.data(reference)
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    reply(library=str(library), data=str(folder / "data.npz"), candidates=candidates)


def link_shared(linker: Sequence[str], objects: Sequence[Path], library: Path) -> None:
    """Link objects to a shared library that this machine can load."""
    command = [*linker, *_LINK, "-o", str(library), *map(str, objects), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        msg = f"linking failed: {done.stderr.strip()[:500]}"
        raise RuntimeError(msg)


if __name__ == "__main__":
    main()
