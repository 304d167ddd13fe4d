"""What makes tuning records comparable, read without importing TVM."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ofa_compile.cache import digest
from ofa_compile.hardware import host
from ofa_compile.hardware.gpu_devices import local_gpu_name
from ofa_compile.hardware.target_spec import Family, TargetSpec

_LENGTH = 16


def tuning_fingerprint(target: TargetSpec, *, threads: int = 1) -> str:
    """Name what is behind a record: processor, features, TVM, threads, target, precision."""
    text = json.dumps(tuning_facts(target, threads=threads), sort_keys=True)
    return digest(text)[:_LENGTH]


def tuning_facts(target: TargetSpec, *, threads: int = 1) -> dict[str, Any]:
    """Return the facts that `tuning_fingerprint` hashes."""
    # One thread's times do not depend on how many cores there are.
    tvm_target = {k: v for k, v in target.tvm_target.items() if k != "num-cores"}
    is_here = target.is_native and target.runner.kind != "rpc"
    # Of a board or an emulated core, the target is all that is known wherever code is compiled.
    machine = host.model_name() if is_here else f"{target.runner.kind} {target.name}"
    if target.is_gpu:
        return {
            "gpu": local_gpu_name(target.kind) if is_here else machine,
            "precision": target.precision,
            "tvm": importlib.metadata.version("apache-tvm"),
            "tvm_target": tvm_target,
            "cores": [target.core.cores, target.core.vector_bits],
        }
    facts = {
        "processor": machine,
        "features": sorted(host.cpu_flags()) if is_here else [],
        "tvm": importlib.metadata.version("apache-tvm"),
        "threads": threads,
        "tvm_target": tvm_target,
        "vector": [target.core.vector_bits, target.core.vector_registers],
    }
    # Workloads in floats and in halves look alike. Databases of float32 are older than this fact.
    return facts if target.precision == "fp32" else {**facts, "precision": target.precision}


def module_fingerprint(tvm_target: Mapping[str, Any], device: str | None = None) -> str:
    """Name what is behind MetaSchedule's record: the same, of a target of TVM's own.

    Parameters
    ----------
    tvm_target
        The target as a dictionary.
    device
        Where candidates run; None for this machine.
    """
    return digest(json.dumps(module_facts(tvm_target, device), sort_keys=True))[:_LENGTH]


def module_facts(tvm_target: Mapping[str, Any], device: str | None = None) -> dict[str, Any]:
    """Return the facts that `module_fingerprint` hashes."""
    kind = str(tvm_target["kind"])
    facts: dict[str, Any] = {
        "device": device,
        "tvm": importlib.metadata.version("apache-tvm"),
        "tvm_target": dict(tvm_target),
        # Schedules of TVM's own share a function between threads.
        "threads": tvm_target.get("num-cores", host.num_cores()),
    }
    if device is None:
        facts |= {"processor": host.model_name(), "features": sorted(host.cpu_flags())}
        facts |= {"gpu": local_gpu_name(kind)} if kind in ("cuda", "vulkan") else {}
    return facts


@functools.cache
def kernel_digest(family: Family = "cpu") -> str:
    """Hash the sources that turn a workload and a configuration into code for a CPU or a GPU."""
    # The package is found, not imported: importing it would load TVM.
    spec = importlib.util.find_spec("ofa_compile.kernels")
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    sources = (path for folder in folders for path in folder.glob("*.py"))
    if family == "gpu":
        paths = sorted(p for p in sources if p.name.startswith("gpu_") or p.name == "emit.py")
    else:
        paths = sorted(path for path in sources if not path.name.startswith("gpu_"))
    parts = [part for path in paths for part in (path.name.encode(), path.read_bytes())]
    return digest(*parts)[:_LENGTH]
