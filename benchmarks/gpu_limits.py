"""What a GPU can do at most, measured by kernels of our own through our own launcher.

One kernel does nothing but multiply-adds, in as many independent chains as hide their latency;
another copies more memory than any cache holds. They are built where there is no GPU, need nothing
but the driver where there is one, and so serve where PyTorch cannot say: on Vulkan, and on a
machine without it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gpu_shares import join_limits
from numpy.typing import NDArray

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.errors import OfaCompileError

if TYPE_CHECKING:
    from ofa_compile.compiler.plan import Plan
    from ofa_compile.hardware.target_spec import TargetSpec

PREFIX = "ofa_limits_"
STEPS = "steps.json"
_LANES = 4
# Three vectors are twelve chains, which hide most of the latency of software devices, and which the
# sixteen registers of a CPU hold; four were slower, two as well. GPUs hide it by other threads.
_CHAINS = 3
_UNROLLED = 8
_ROUNDS = 256
_THREADS, _GROUPS = 128, 4096
NUM_THREADS = _THREADS * _GROUPS
# A quarter of the rounds: what takes a quarter of the time is arithmetic and not the launch.
_SHORT = 4
# 128 MiB, which every Vulkan device can bind. From a value's being written to its being read, and
# again to its copy's being written over, more than that is moved: no cache holds it.
_COPIED_BYTES = 2**27
# Software devices take seconds for one; GPUs are done with all before their clocks have risen.
_LEAST, _MOST, _BUDGET_S = 3, 50, 2.0
_SEED = 0
_STEP = 2.0**-10  # a step of float16 below 1


@dataclass(frozen=True)
class LimitStep:
    """A launch of the library: how many operations it computes, how many bytes it moves."""

    name: str
    operations: int = 0
    num_bytes: int = 0


def build_limits(folder: Path, target: TargetSpec) -> None:
    """Write the library that measures the limits of a target's devices, and what its steps are.

    Parameters
    ----------
    folder
        To write into; it is made.
    target
        Its precision says in what the multiply-adds are: float16 for "fp16", else float32.
    """
    from ofa_compile.cache import Cache, digest
    from ofa_compile.compiler.gpu.backend import backend_of
    from ofa_compile.compiler.gpu.kernels import generate_kernel
    from ofa_compile.compiler.gpu.objects import pack_object
    from ofa_compile.compiler.gpu.tables import emit_tables
    from ofa_compile.compiler.link import Linker, runtime_of
    from ofa_compile.hardware.precision import value_type
    from ofa_compile.hardware.toolchain import find_linker

    folder.mkdir(parents=True, exist_ok=True)
    values = value_type(target)
    plan, steps, functions = _plan(values, has_fma=target.kind == "vulkan")
    backend = backend_of(target)
    paths = {}
    for step, function in zip(steps, functions, strict=True):
        source = generate_kernel(function, step.name, backend)
        code = pack_object(source, step.name, backend.compile(source.text, step.name))
        path = folder / digest(source.text)
        path.write_bytes(code)
        paths[step.name] = path
    names = [step.name for step in steps]
    is_half = values == "float16"
    source = emit_tables(
        plan, paths, names, "limits", backend.toolkit(), is_apart=True, needs_halves=is_half
    )
    linker = Linker(find_linker(target), Cache(), runtime_of(target.kind, target.platform))
    kernels = list(paths.values())
    network = linker.compile_network(source.c_source, source.weights, kernels)
    linker.link(folder, network, kernels, PREFIX, None)
    for path in kernels:
        path.unlink()
    facts = {"values": values, "steps": [asdict(step) for step in steps]}
    (folder / STEPS).write_text(json.dumps(facts), encoding="utf-8")


def _plan(values: str, *, has_fma: bool) -> tuple[Plan, list[LimitStep], list[Any]]:
    """Return a network of the launches, what each of them does, and their kernels.

    Where the language has a word for a fused multiply-add, it is tried beside a product and a sum,
    which the compiler of the driver may fuse or not.
    """
    from ofa_compile.compiler.plan import Plan, Ref, Step
    from ofa_compile.compiler.workload import Add

    bytes_each = 2 if values == "float16" else 4
    plan = Plan((1, 1, 1, _LANES * (_CHAINS + 1)), (1, _LANES))
    plan.output = plan.new_buffer(NUM_THREADS * _LANES, bytes_each)
    source, copy = (plan.new_buffer(_COPIED_BYTES // 4) for _ in range(2))
    steps, functions = [], []

    def add(step: LimitStep, function: Any, arguments: tuple[Ref, ...], output: Ref) -> None:
        plan.steps.append(Step(Add(1), {"name": step.name}, arguments, output, 1))
        steps.append(step)
        functions.append(function)

    for name, rounds in (("short", _ROUNDS // _SHORT), ("long", _ROUNDS)):
        operations = 2 * NUM_THREADS * rounds * _UNROLLED * _CHAINS * _LANES
        for word in ("fma", "sum") if has_fma else ("sum",):
            step = LimitStep(f"{word}_{name}", operations=operations)
            function = _multiply_adds(rounds, values, fused=word == "fma")
            add(step, function, (Ref("input"),), plan.output)
    add(LimitStep("fill"), _fill(), (), source)
    add(LimitStep("copy", num_bytes=2 * _COPIED_BYTES), _copy(), (source,), copy)
    return plan, steps, functions


def _multiply_adds(rounds: int, values: str, *, fused: bool) -> Any:
    """Generate `chain = chain * factor + summand` in independent chains of every thread."""
    from ofa_compile.compiler.tvm_api import tvm
    from ofa_compile.kernels import emit
    from ofa_compile.kernels import gpu_emit as gpu

    def multiply_add(a: Any, b: Any, c: Any) -> Any:
        vector = gpu.dtype(_LANES, values)
        return tvm.tirx.call_intrin(vector, "tirx.fma", a, b, c) if fused else a * b + c

    def body(x: Any, y: Any, block: Any, thread: Any) -> None:
        index = block[0] * _THREADS + thread[0]
        chains = gpu.local(_CHAINS, _LANES, values)
        for chain in range(_CHAINS):
            gpu.put(chains, chain, x[chain])
        known = gpu.local(2, _LANES, values)
        for place in range(2):
            gpu.put(known, place, emit.splat(emit.lane(x[_CHAINS], place), _LANES))
        with emit.serial(0, rounds):
            for chain in list(range(_CHAINS)) * _UNROLLED:
                gpu.put(chains, chain, multiply_add(chains[chain], known[0], known[1]))
        total = chains[0]
        for chain in range(1, _CHAINS):
            total = total + chains[chain]
        gpu.put(y, index, total)

    arrays = {
        "x": gpu.Array(_LANES * (_CHAINS + 1), _LANES),
        "y": gpu.Array(_LANES * _THREADS * _GROUPS, _LANES),
    }
    return gpu.define(arrays, (_GROUPS, 1, 1), (_THREADS, 1, 1), body, values)


def _fill() -> Any:
    """Generate a map that differs everywhere: drivers may give pages of zeros once for all."""
    from ofa_compile.kernels import emit
    from ofa_compile.kernels import gpu_emit as gpu

    def body(y: Any, index: Any) -> None:
        gpu.put(y, index, emit.splat(index.astype("float32"), _LANES))

    size = _COPIED_BYTES // 4
    return gpu.define_linear({"y": gpu.Array(size, _LANES)}, size // _LANES, body)


def _copy() -> Any:
    """Generate a copy."""
    from ofa_compile.kernels import gpu_emit as gpu

    size = _COPIED_BYTES // 4
    arrays = dict.fromkeys(("x", "y"), gpu.Array(size, _LANES))
    return gpu.define_linear(
        arrays, size // _LANES, lambda x, y, index: gpu.put(y, index, x[index])
    )


def chain_inputs(shape: tuple[int, ...], values: str) -> NDArray[np.float32]:
    """Return what the chains begin with, then a factor and a summand, as the library takes them.

    The factor lies so near to 1 that a chain depends on its length, and does not grow.
    """
    x = np.zeros(shape, np.float32)
    numbers = x.reshape(-1).view(values)[: _LANES * (_CHAINS + 1)].reshape(-1, _LANES)
    numbers[:_CHAINS] = np.random.default_rng(_SEED).uniform(0.25, 0.75, (_CHAINS, _LANES))
    numbers[_CHAINS, :2] = 1 - _STEP, _STEP / 2
    return x


def step_seconds(folder: Path) -> list[tuple[LimitStep, float]]:
    """Return every step of a library with its shortest time by the device's clock.

    Raises
    ------
    OfaCompileError
        If the device cannot run it.
    """
    facts = json.loads((folder / STEPS).read_text(encoding="utf-8"))
    steps = [LimitStep(**step) for step in facts["steps"]]
    with NativeLibrary(folder / "libsubnet.so", PREFIX) as library:
        x = chain_inputs(library.input_shape, facts["values"])
        once = 1e-3 * float(library.time_steps(x, repeats=1, warmup=1).sum())
        repeats = int(np.clip(_BUDGET_S / once, _LEAST, _MOST))
        milliseconds = library.time_steps(x, repeats=repeats, warmup=0)
    return list(zip(steps, 1e-3 * milliseconds.min(axis=0), strict=True))


def limits_of(steps: Sequence[tuple[LimitStep, float]], precision: str) -> dict[str, Any]:
    """Return the most operations in a precision, and the most bytes, that a step does in a second.

    Returns
    -------
    `gflop_per_s`, by precision, and `gb_per_s`.
    """
    operations = max(step.operations / seconds for step, seconds in steps)
    moved = max(step.num_bytes / seconds for step, seconds in steps)
    return {"gflop_per_s": {precision: 1e-9 * operations}, "gb_per_s": 1e-9 * moved}


def own_limits(folder: Path) -> dict[str, Any]:
    """Measure with all libraries below a folder, of which each is named after a precision.

    Returns
    -------
    As `limits_of`. `failed` says what the device cannot run (float16, where it has none).
    """
    found, failed = [], {}
    for place in sorted(path.parent for path in folder.glob(f"*/{STEPS}")):
        try:
            found.append(limits_of(step_seconds(place), place.name))
        except OfaCompileError as error:
            failed[place.name] = str(error)
    return join_limits(found) | ({"failed": failed} if failed else {})
