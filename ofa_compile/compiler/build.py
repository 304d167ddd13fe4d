"""ONNX file + hardware target -> native library and executable."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_compile.cache import Cache, digest
from ofa_compile.compiler.link import NAMESPACE as NETWORKS
from ofa_compile.compiler.link import Linker, runtime_of
from ofa_compile.compiler.objects import GPU_NAMESPACE, NAMESPACE, code_fingerprint
from ofa_compile.compiler.onnx_file import onnx_identity
from ofa_compile.errors import UserInputError
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker

if TYPE_CHECKING:
    from ofa_compile.compiler.emit_c import NetworkSource
    from ofa_compile.compiler.int8.prepare import Calibration
    from ofa_compile.compiler.kernel_registry import Config, VectorMachine
    from ofa_compile.compiler.lower import ChooseConfig
    from ofa_compile.compiler.objects import KernelObject
    from ofa_compile.compiler.plan import Plan
    from ofa_compile.compiler.workload import Workload

logger = logging.getLogger(__name__)

VersionOf = Callable[["Plan"], str]
"""Says what a network of that plan is called, before its code is written."""

Progress = Callable[[str, int, int], None]
"""Called as (what, done, total) while something takes long."""


@dataclass(frozen=True)
class CompiledNetwork:
    """What `compile_onnx` wrote, and facts about it.

    Attributes
    ----------
    library, executable, header
        Files in the output folder; `executable` is None when none was asked for.
    input_shape, output_shape
        (N, C, H, W) and (N, classes).
    steps
        One dictionary per kernel call, in order: workload, configuration, symbol and MACs.
    arena_bytes, weights_bytes
        Scratch memory of one run; constants in the binary.
    object_cache_hits, object_cache_misses
        Kernels taken from the cache, and compiled.
    num_tuned
        Kernel calls whose configuration comes from tuning.
    layers
        How many layers with weights there are in which precision.
    """

    library: Path
    executable: Path | None
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    steps: list[dict[str, Any]]
    arena_bytes: int
    weights_bytes: int
    object_cache_hits: int
    object_cache_misses: int
    num_tuned: int = 0
    layers: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prepared:
    """A network ready to link."""

    network: Path
    kernels: list[Path]
    facts: dict[str, Any]
    misses: int


def compile_onnx(
    onnx_path: Path,
    target: TargetSpec,
    output_dir: Path,
    *,
    symbol_prefix: str = "ofa_subnet_",
    network_meta: str | None = None,
    cache: Cache | None = None,
    tuned: dict[str, dict[str, Any]] | None = None,
    progress: Progress | None = None,
    keep_symbols: bool = False,
    calibration: Calibration | None = None,
) -> CompiledNetwork:
    """Compile a network for a target.

    A network compiled before with the same code, target and tuning is only linked; TVM is not
    imported then.

    Parameters
    ----------
    onnx_path
        Float32 network with one input (N, C, H, W) and one output, static shapes.
    target
        Hardware target of TVM kind "llvm", "vulkan" or "cuda".
    output_dir
        Folder that receives the library and, with `network_meta`, the executable.
    symbol_prefix
        Start of every symbol the library exports.
    network_meta
        Text of `network_meta.h` (preprocessing and labels), or None for the library alone.
    cache
        Object cache; the default one if None.
    tuned
        Workload key -> kernel configuration, where tuning found a better one than the default.
    progress
        Called while kernels are compiled.
    keep_symbols
        Leave the names of the kernels in what is linked, for profilers.
    calibration
        Images that the ranges of values are taken from; a target in int8 needs them.

    Raises
    ------
    UserInputError
        If the file is missing or not ONNX, the output folder cannot be written, or a target in
        int8 comes without images.
    UnsupportedOperatorError, BuildError, MissingDependencyError
        If the network, code generation or the tool chain fails.
    """
    onnx_path = Path(onnx_path)
    if target.precision == "int8" and calibration is None:
        msg = "int8 needs images to calibrate on, and none are given"
        raise UserInputError(msg, hint="give real images, normalised as the network wants them")
    identity = onnx_identity(onnx_path)
    if target.precision != "int8":
        calibration = None
    if calibration is not None:
        identity = digest(identity, calibration.identity)
    cache = cache or Cache()
    runtime = runtime_of(target.kind, target.platform)
    linker = Linker(find_linker(target), cache, runtime, keep_symbols=keep_symbols)
    source = digest(identity, target.fingerprint, code_fingerprint())
    key = digest(source, json.dumps(tuned or {}, sort_keys=True), linker.identity)
    prepared = _load(cache, key, GPU_NAMESPACE if target.is_gpu else NAMESPACE)
    if prepared is None:
        prepared = _prepare(onnx_path, target, linker, source, tuned or {}, progress, calibration)
        cache.put("plans", key, json.dumps(prepared.facts).encode())
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        msg = f"cannot write to {output_dir}: {err.strerror}"
        raise UserInputError(msg) from err
    linker.link(output_dir, prepared.network, prepared.kernels, symbol_prefix, network_meta)
    facts = prepared.facts
    return CompiledNetwork(
        library=output_dir / target.platform.library,
        executable=None if network_meta is None else output_dir / target.platform.executable,
        input_shape=tuple(facts["input_shape"]),
        output_shape=tuple(facts["output_shape"]),
        steps=facts["steps"],
        arena_bytes=facts["arena_bytes"],
        weights_bytes=facts["weights_bytes"],
        object_cache_hits=len(prepared.kernels) - prepared.misses,
        object_cache_misses=prepared.misses,
        layers=facts["layers"],
        num_tuned=sum((tuned or {}).get(s["key"]) == s["config"] for s in facts["steps"]),
    )


def _prepare(
    onnx_path: Path,
    target: TargetSpec,
    linker: Linker,
    source: str,
    tuned: dict[str, dict[str, Any]],
    progress: Progress | None,
    calibration: Calibration | None,
) -> _Prepared:
    """Import, rewrite, lower and generate code: everything before the link."""
    cache = linker.cache
    if target.is_gpu:
        from ofa_compile.compiler.gpu.prepare import prepare_gpu as prepare
    else:
        prepare = functools.partial(_prepare_cpu, calibration=calibration)

    def version_of(plan: Plan) -> str:
        # Of all that was tuned, only what this network uses decides what it is.
        configs = json.dumps([step.config for step in plan.steps], sort_keys=True)
        return f"ofa-compile {target.name} {digest(source, configs)[:12]}"

    plan, objects, symbols, emitted = prepare(onnx_path, target, cache, version_of, tuned, progress)
    kernels = [item.path for item in objects]
    network = linker.compile_network(emitted.c_source, emitted.weights, kernels)
    facts: dict[str, Any] = {
        "input_shape": plan.input_shape,
        "output_shape": plan.output_shape,
        "arena_bytes": emitted.arena_bytes,
        "weights_bytes": len(emitted.weights),
        "network": network.name,
        "kernels": [path.name for path in kernels],
        "layers": plan.layers,
        "steps": [
            {
                "workload": step.workload.to_dict(),
                "key": step.workload.key,
                "config": step.config,
                "symbol": symbols[number],
                "macs": step.workload.macs,
            }
            for number, step in enumerate(plan.steps)
        ],
    }
    facts = json.loads(json.dumps(facts))  # as they will come from the cache
    misses = sum(not item.was_cached for item in objects)
    return _Prepared(network, kernels, facts, misses)


def _prepare_cpu(
    onnx_path: Path,
    target: TargetSpec,
    cache: Cache,
    version_of: VersionOf,
    tuned: dict[str, dict[str, Any]],
    progress: Progress | None,
    *,
    calibration: Calibration | None,
) -> tuple[Plan, list[KernelObject], dict[int, str], NetworkSource]:
    """Return the plan, its objects, the symbol of every step's kernel, and generated sources."""
    from ofa_compile.compiler.emit_c import emit_network
    from ofa_compile.compiler.kernel_registry import VectorMachine
    from ofa_compile.compiler.objects import compile_objects, symbol_of

    machine = VectorMachine.of(target)

    def choose_config(workload: Workload) -> Config | None:
        return tuned.get(workload.key)

    plan = lower_onnx(onnx_path, machine, cache, choose_config, calibration)
    objects = compile_objects(plan, target, machine, cache, progress)
    symbols = {number: symbol_of(step, target) for number, step in enumerate(plan.steps)}
    return plan, objects, symbols, emit_network(plan, symbols, version_of(plan))


def lower_onnx(
    onnx_path: Path,
    machine: VectorMachine,
    cache: Cache,
    choose_config: ChooseConfig,
    calibration: Calibration | None,
) -> Plan:
    """Import, rewrite and lower a network for a CPU: to bytes with a calibration, else to floats.

    Raises
    ------
    UserInputError, UnsupportedOperatorError
        If the file cannot be read, or an operation not be lowered.
    """
    if calibration is not None:
        from ofa_compile.compiler.int8.lower import lower_int8
        from ofa_compile.compiler.int8.prepare import quantised_graph

        quantised = quantised_graph(onnx_path, calibration, cache)
        return lower_int8(quantised, machine, choose_config)
    from ofa_compile.compiler.fp16 import lower_fp16
    from ofa_compile.compiler.import_onnx import import_onnx
    from ofa_compile.compiler.lower import lower
    from ofa_compile.compiler.pipeline import run_passes

    graph = import_onnx(onnx_path)
    run_passes(graph)
    lower_floats = lower_fp16 if machine.value_type == "float16" else lower
    return lower_floats(graph, machine, choose_config)


def _load(cache: Cache, key: str, namespace: str) -> _Prepared | None:
    """Return a network prepared before, if it and all its objects are still in the cache."""
    path = cache.get("plans", key)
    if path is None:
        return None
    try:
        facts = json.loads(path.read_bytes())
        network = cache.get(NETWORKS, facts["network"])
        objects = [cache.get(namespace, name) for name in facts["kernels"]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        logger.warning("ignoring a damaged cache entry (%s)", err)
        return None
    kernels = [path for path in objects if path is not None]
    if network is None or len(kernels) != len(objects):
        return None
    return _Prepared(network, kernels, facts, 0)
