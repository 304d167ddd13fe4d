"""Worker process that builds candidates for GPUs: TVM is imported once, then many are built.

Run as a module by `BuilderPool`, with the requests of `build_worker`. A candidate is one launch of
a kernel of ours, or the launches of a schedule from MetaSchedule's rules for GPUs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.gpu.backend import Backend, make_backend
from ofa_compile.compiler.gpu.objects import pack_object
from ofa_compile.compiler.gpu.source import KernelSource
from ofa_compile.compiler.kernel_registry import GpuMachine
from ofa_compile.compiler.workload import Generic, Workload, workload_from_dict
from ofa_compile.tuning.build_worker import link_shared
from ofa_compile.tuning.cases import case_arrays, make_stored_case, stored
from ofa_compile.tuning.database import Config
from ofa_compile.tuning.separables import separables
from ofa_compile.tuning.serve import Reply, keep_torch_out, serve_all

Arrays = dict[str, NDArray[Any]]
OUTPUT = "output"


@dataclass(frozen=True)
class _Candidate:
    """Kernels with what their parameters point to, and what the launches keep between them."""

    launches: list[tuple[KernelSource, list[str]]]
    scratch: dict[str, int]


def main() -> None:
    """Serve `network`, `describe`, `propose` and `build` requests."""
    keep_torch_out()
    serve_all({"network": _network, "describe": _describe, "propose": _propose, "build": _build})


def _network(request: dict[str, Any], reply: Reply) -> None:
    """Reply with the workloads of an ONNX file, and how often it has each."""
    from ofa_compile.compiler.gpu.lower import GpuHalfLowering, GpuLowering
    from ofa_compile.compiler.import_onnx import import_onnx
    from ofa_compile.compiler.pipeline import GPU_PASSES, run_passes

    graph = import_onnx(Path(request["path"]))
    run_passes(graph, GPU_PASSES)
    machine = GpuMachine(**request["machine"])
    lowering = GpuHalfLowering if machine.value_type == "float16" else GpuLowering
    plan = lowering(graph, machine, lambda workload: None, request["tvm_target"]).run()
    found = [step.workload for step in plan.steps if step.launch == 0]
    counts = Counter([*found, *separables(found)])
    reply(workloads=[[workload.to_dict(), count] for workload, count in counts.items()])


def _describe(request: dict[str, Any], reply: Reply) -> None:
    """Reply with the configurations of each workload."""
    reply(configs=[_configs(workload_from_dict(w), request) for w in request["workloads"]])


def _configs(workload: Workload, request: dict[str, Any]) -> list[Config]:
    from ofa_compile.compiler.kernel_registry import find_kernel

    if isinstance(workload, Generic):
        from ofa_compile.compiler.generic_schedules import parse_function
        from ofa_compile.compiler.gpu.generic import gpu_space
        from ofa_compile.compiler.schedule_search import propose

        function, seed = parse_function(workload.tir), int(workload.key, 16)
        space = gpu_space(request["tvm_target"])
        traces = propose(function, space, request["max_configs"] - 1, seed=seed)
        return [{}, *({"trace": trace} for trace in traces)]
    kernel = find_kernel(workload, "gpu")
    if kernel is None:
        return []
    return [dict(config) for config in kernel.configs(workload, GpuMachine(**request["machine"]))]


def _propose(request: dict[str, Any], reply: Reply) -> None:
    """Reply with nothing: all that MetaSchedule proposes for a GPU has been described."""
    reply(configs=[])


def _build(request: dict[str, Any], reply: Reply) -> None:
    """Write the kernels of all configurations, and the data to run them on."""
    workload = workload_from_dict(request["workload"])
    folder, configs = Path(request["folder"]), request["configs"]
    backend = make_backend(request["gpu"]["kind"], request["gpu"]["architectures"])
    if isinstance(workload, Generic):
        arrays = _generic_arrays(workload, request)
        candidates = list(_generic_candidates(workload, configs, request["tvm_target"], backend))
    else:
        arrays, candidates = _kernel_candidates(
            workload, configs, GpuMachine(**request["machine"]), backend
        )
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    described = _compile(candidates, workload.kind, backend, folder)
    reply(data=str(folder / "data.npz"), candidates=described)


def _kernel_candidates(
    workload: Workload, configs: Sequence[Config], machine: GpuMachine, backend: Backend
) -> tuple[Arrays, list[_Candidate]]:
    """Return data, with the right output from numpy, and a launch for each configuration."""
    from ofa_compile.compiler.gpu.kernels import generate_kernel
    from ofa_compile.compiler.kernel_registry import find_kernel

    kernel = find_kernel(workload, "gpu")
    assert kernel is not None
    case = make_stored_case(workload, machine)
    arrays: Arrays = case_arrays(case)
    inputs = [name for name in arrays if name.startswith("input_")]
    candidates = []
    for number, config in enumerate(configs):
        packed = kernel.pack(workload, config, machine, case.constants)
        names = [f"packed_{number}_{place}" for place in range(len(packed))]
        arrays |= {
            name: stored(array, machine).ravel() for name, array in zip(names, packed, strict=True)
        }
        function = kernel.build(workload, config, machine)
        source = generate_kernel(function, workload.kind, backend)
        candidates.append(_Candidate([(source, [*inputs, *names, OUTPUT])], {}))
    return arrays, candidates


def _generic_arrays(workload: Generic, request: Mapping[str, Any]) -> Arrays:
    """Return data; what is right is what TVM's own lowering for this processor computes."""
    from ofa_compile.compiler.codegen import compile_object
    from ofa_compile.tuning.candidates import GenericCandidates

    made = GenericCandidates(workload, [], request["prefix"])
    library = Path(request["folder"]) / "reference.so"
    objects = library.with_suffix(".o")
    objects.write_bytes(compile_object(made.reference, request["host_target"]))
    link_shared(request["host_linker"], [objects], library)
    return made.data(library)[0]


def _generic_candidates(
    workload: Generic, configs: Sequence[Config], tvm_target: dict[str, Any], backend: Backend
) -> Iterator[_Candidate]:
    from ofa_compile.compiler.generic_schedules import apply_trace, parse_function
    from ofa_compile.compiler.gpu.generic import schedule_default, split_launches

    plain = parse_function(workload.tir)
    for config in configs:
        has_trace = "trace" in config
        scheduled = (
            apply_trace(plain, config["trace"])
            if has_trace
            else schedule_default(plain, tvm_target)
        )
        launches, sizes = split_launches(scheduled, tvm_target)
        scratch = {f"scratch_{number}": size for number, size in enumerate(sizes)}
        names = [f"input_{n}" for n in range(len(plain.params) - 1)] + [OUTPUT, *scratch]
        yield _Candidate(
            [
                (
                    backend.generate(launch.function, workload.kind),
                    [names[buffer] for buffer in launch.buffers],
                )
                for launch in launches
            ],
            scratch,
        )


def _compile(
    candidates: Sequence[_Candidate], kind: str, backend: Backend, folder: Path
) -> list[dict[str, Any]]:
    """Compile all kernels, the compiler being a process of its own; say where they are."""
    described: list[dict[str, Any]] = []
    with ThreadPoolExecutor() as pool:
        jobs = []
        for number, candidate in enumerate(candidates):
            entry: dict[str, Any] = {"launches": [], "scratch": candidate.scratch}
            described.append(entry)
            for place, (source, buffers) in enumerate(candidate.launches):
                path = folder / f"kernel_{number}_{place}.o"
                jobs.append((path, source, pool.submit(backend.compile, source.text, kind)))
                entry["launches"].append({"kernel": str(path), "buffers": buffers})
        for path, source, job in jobs:
            path.write_bytes(pack_object(source, kind, job.result()))
    return described


if __name__ == "__main__":
    main()
