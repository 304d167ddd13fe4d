"""Runs many kernels in one library and compares each with numpy.

The kernels become the steps of a network without sense: inputs are constants, every output has a
place of its own, and the network's output is the whole arena.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofa_compile.bundle.native import NativeLibrary
from ofa_compile.cache import Cache
from ofa_compile.compiler.gpu.backend import backend_of
from ofa_compile.compiler.gpu.kernels import compile_kernels, kernel_keys
from ofa_compile.compiler.gpu.tables import emit_tables, places_apart
from ofa_compile.compiler.kernel_registry import Config, GpuMachine, find_kernel
from ofa_compile.compiler.link import Linker, runtime_of
from ofa_compile.compiler.plan import Plan, Ref, Step
from ofa_compile.compiler.workload import Workload
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.references import make_case

# Sums of up to a few hundred products in float32, relative to the largest result.
TOLERANCE = 1e-5
MACHINE = GpuMachine(wanted_threads=64)  # so that small cases take large tiles, too
# Sums of halves.
HALF_TOLERANCE = 0.01
# Products of factors rounded to ten bits.
TF32_TOLERANCE = 1e-3


def check(
    items: Sequence[Workload | tuple[Workload, Config]],
    target: TargetSpec,
    folder: Path,
    cache: Cache,
    rng: np.random.Generator,
    machine: GpuMachine = MACHINE,
) -> None:
    """Assert that each workload, with its default configuration or a given one, is right."""
    plan = Plan((1, 3, 4, 4), (1, 1))
    dtype = np.dtype(machine.value_type)
    cases = []
    for item in items:
        work, config = item if isinstance(item, tuple) else (item, None)
        case = make_case(work, rng)
        kernel = find_kernel(work, "gpu")
        assert kernel is not None
        config = dict(config or kernel.configs(work, machine)[0])
        packed = kernel.pack(work, config, machine, case.constants)
        arrays = (*case.inputs, *packed)
        refs = [plan.new_constant(np.asarray(array, dtype)) for array in arrays]
        output = plan.new_buffer(case.expected.size, dtype.itemsize)
        plan.steps.append(Step(work, config, tuple(refs), output, 1, case.expected.size))
        cases.append((case, config))
    offsets, values = run_apart(plan, target, folder, cache, machine)
    values = values.view(dtype)
    exact = TF32_TOLERANCE if machine.has_matrix_units else TOLERANCE
    tolerance = exact if dtype == np.float32 else HALF_TOLERANCE
    for (case, config), offset in zip(cases, offsets, strict=True):
        size = case.expected.size
        start = offset // dtype.itemsize
        result = values[start : start + size].reshape(case.expected.shape)
        error = np.abs(result - case.expected).max() / max(1.0, np.abs(case.expected).max())
        assert error <= tolerance, f"{case.workload} with {config}: error {error}"


def run_apart(
    plan: Plan, target: TargetSpec, folder: Path, cache: Cache, machine: GpuMachine
) -> tuple[list[int], np.ndarray]:
    """Run the steps with a place for every buffer; return the places and the arena's values."""
    offsets, position = places_apart(plan)
    plan.output_shape, plan.output = (1, position // 4), Ref("buffer", 0)
    backend = backend_of(target)
    keys = kernel_keys(plan, backend, machine)
    objects = compile_kernels(dict(zip(keys, plan.steps, strict=True)), backend, machine, cache)
    paths = {key: item.path for key, item in objects.items()}
    source = emit_tables(
        plan,
        paths,
        keys,
        "test",
        backend.toolkit(),
        is_apart=True,
        needs_halves=machine.value_type == "float16",
    )
    linker = Linker(find_linker(target), cache, runtime_of(target.kind, target.platform))
    kernels = list(paths.values())
    network = linker.compile_network(source.c_source, source.weights, kernels)
    linker.link(folder, network, kernels, "ofa_t_", None)
    with NativeLibrary(folder / "libsubnet.so", "ofa_t_") as library:
        shape = library.input_shape
        values = library.run(np.zeros(shape, np.float32))
    assert math.prod(values.shape) == position // 4
    return offsets, values.ravel()
