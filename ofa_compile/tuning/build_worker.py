"""Worker process that builds candidates: TVM is imported once, then many are built.

Run as a module by `BuilderPool`; it reads workloads and configurations and writes libraries.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ofa_compile.tuning.serve import Reply, serve

if TYPE_CHECKING:
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.compiler.workload import Workload

_LINK = ("-shared", "-Wl,--build-id=none")


def main() -> None:
    """Serve `describe` and `build` requests."""
    # tvm_ffi imports torch where it is installed, which takes seconds; nothing here needs it.
    sys.modules["torch"] = None  # type: ignore[assignment]
    serve(
        lambda request, reply: {"describe": _describe, "build": _build}[request["do"]](
            request, reply
        )
    )


def _describe(request: dict[str, Any], reply: Reply) -> None:
    """Reply with the configurations of each workload."""
    from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
    from ofa_compile.compiler.workload import workload_from_dict

    machine = VectorMachine(**request["machine"])
    found = []
    for document in request["workloads"]:
        workload = workload_from_dict(document)
        kernel = find_kernel(workload)
        found.append([dict(c) for c in kernel.configs(workload, machine)] if kernel else [])
    reply(configs=found)


def _build(request: dict[str, Any], reply: Reply) -> None:
    """Write one library with all configurations, and the data to run them on."""
    from ofa_compile.compiler.codegen import compile_object
    from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
    from ofa_compile.compiler.workload import workload_from_dict
    from ofa_compile.tuning.references import make_case

    machine = VectorMachine(**request["machine"])
    workload = workload_from_dict(request["workload"])
    kernel = find_kernel(workload)
    assert kernel is not None
    folder = Path(request["folder"])
    functions = {
        f"candidate_{number}": kernel.build(workload, config, machine)
        for number, config in enumerate(request["configs"])
    }
    (folder / "kernels.o").write_bytes(compile_object(functions, request["tvm_target"]))
    library = folder / "kernels.so"
    command = [*request["linker"], *_LINK, "-o", str(library), str(folder / "kernels.o"), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        msg = f"linking failed: {done.stderr.strip()[:500]}"
        raise RuntimeError(msg)
    # Equal data for every batch of a workload, so that results compare.
    case = make_case(workload, np.random.default_rng(int(workload.key, 16)))
    arrays = {f"input_{n}": value.ravel() for n, value in enumerate(case.inputs)}
    arrays["expected"] = case.expected.astype(np.float32).ravel()
    candidates = []
    for number, config in enumerate(request["configs"]):
        pointers = [f"input_{n}" for n in range(len(case.inputs))]
        packed = _packed(kernel, workload, config, machine, case.constants)
        for place, array in enumerate(packed):
            pointers.append(f"packed_{number}_{place}")
            arrays[pointers[-1]] = np.asarray(array, np.float32).ravel()
        tiles = kernel.num_tiles(workload, config, machine)
        candidates.append(
            {"symbol": f"candidate_{number}", "num_tiles": tiles, "pointers": pointers}
        )
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    reply(library=str(library), data=str(folder / "data.npz"), candidates=candidates)


def _packed(
    kernel: Any, workload: Workload, config: Any, machine: VectorMachine, constants: Any
) -> list[Any]:
    """Pack the constants, and in front of them the weights that another kernel would compute."""
    packed = list(kernel.pack(workload, config, machine, constants))
    if getattr(workload, "has_dynamic_weights", False):
        from ofa_compile.kernels.pointwise import pack_weights

        packed.insert(0, pack_weights(workload, config, machine, constants["weight"]))
    return packed


if __name__ == "__main__":
    main()
