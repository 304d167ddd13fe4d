"""Compiles many kernels into one program, runs it (natively or emulated), compares with numpy."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ofa_compile.compiler.kernel_registry import (
    Config,
    VectorMachine,
    count_fetch_steps,
    find_kernel,
)
from ofa_compile.compiler.link import copy_launcher
from ofa_compile.compiler.workload import Workload
from ofa_compile.errors import MissingDependencyError
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.target_spec import TargetSpec, load_target
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.kernels.pointwise import pack_weights
from ofa_compile.tuning.references import Case, make_case

DRIVER = Path(__file__).parent / "kernel_driver.c"
MACHINES = {"avx512": "x86-64-avx512", "avx2": "x86-64", "neon": "arm64"}
# Sums of up to a few hundred products in float32, relative to the largest result.
TOLERANCE = 1e-5


def why_not(name: str) -> str | None:
    """Say why code for a machine cannot be built and run here, or None."""
    target = load_target(MACHINES[name])
    try:
        find_linker(target)
        if not target.is_native and find_emulator(target) is None:
            return f"this processor lacks {', '.join(target.core.requires)}"
    except MissingDependencyError as err:
        return f"{err}; {err.hint}"
    return None


@dataclass(frozen=True)
class Machine:
    """A core to generate code for, and a folder to build in."""

    target: TargetSpec
    folder: Path
    core: VectorMachine = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "core", VectorMachine.of(self.target))

    def configs(self, workload: Workload) -> Sequence[Config]:
        kernel = find_kernel(workload)
        assert kernel is not None
        return kernel.configs(workload, self.core)

    def check(
        self, *workloads: Workload | tuple[Workload, Config], rng: np.random.Generator
    ) -> None:
        """Assert that each workload, with its default configuration or a given one, is right.

        Kernels that fetch data of later steps where a network asks for it are tried both ways.
        """
        cases = []
        for item in workloads:
            workload, config = item if isinstance(item, tuple) else (item, None)
            case = make_case(workload, rng)
            config = config if config is not None else self.configs(workload)[0]
            cases.append((case, config, False))
            kernel = find_kernel(workload)
            assert kernel is not None
            if count_fetch_steps(kernel, workload, config, self.core):
                cases.append((case, config, True))
        for (case, config, fetches), result in zip(cases, self._run(cases), strict=True):
            error = np.abs(result - case.expected).max() / max(1.0, np.abs(case.expected).max())
            what = f"{case.workload} with {config}{', fetching' if fetches else ''}"
            assert error <= TOLERANCE, f"{what}: error {error}"

    def _run(self, cases: Sequence[tuple[Case, Config, bool]]) -> list[np.ndarray]:
        from ofa_compile.compiler.codegen import compile_object

        functions, table, data = {}, [], []
        for number, (case, config, fetches) in enumerate(cases):
            kernel = find_kernel(case.workload)
            assert kernel is not None
            symbol = f"kernel_{number}"
            options = {"fetches": True} if fetches else {}
            functions[symbol] = kernel.build(case.workload, config, self.core, **options)
            packed = kernel.pack(case.workload, config, self.core, case.constants)
            inputs = [*case.inputs]
            if getattr(case.workload, "has_dynamic_weights", False):
                weight = case.constants["weight"]
                inputs.append(pack_weights(case.workload, config, self.core, weight))
            arrays = [np.asarray(a, np.float32).ravel() for a in (*inputs, *packed)]
            data += [array.tobytes() for array in arrays]
            sizes = [array.size for array in arrays] + [case.expected.size]
            tiles = kernel.num_tiles(case.workload, config, self.core)
            table.append((symbol, f"{case.workload} {dict(config)}", sizes, tiles, fetches))
        (self.folder / "kernels.o").write_bytes(compile_object(functions, self.target.tvm_target))
        (self.folder / "table.c").write_text(_render(table))
        output = self._execute(b"".join(data))
        counts = [case.expected.size for case, *_ in cases]
        assert output.size == sum(counts)
        parts = np.split(output, np.cumsum(counts)[:-1])
        return [
            part.reshape(case.expected.shape) for part, (case, *_) in zip(parts, cases, strict=True)
        ]

    def _execute(self, data: bytes) -> np.ndarray:
        compiler = find_linker(self.target).static_command
        # The driver is included, so that the table sees its types.
        command = [*compiler, "-std=c11", "-O1", f"-I{DRIVER.parent}", "table.c", "kernels.o"]
        platform = self.target.platform
        subprocess.run([*command, "-o", platform.program, "-lm"], cwd=self.folder, check=True)
        copy_launcher(platform, self.folder)
        emulator = [] if self.target.is_native else find_emulator(self.target) or []
        done = subprocess.run(
            [*emulator, str(self.folder / platform.executable)],
            input=data,
            capture_output=True,
            timeout=300,
            check=False,
        )
        log = done.stderr.decode().splitlines()[-2:]
        assert done.returncode == 0, f"exit code {done.returncode}, last: {log}"
        return np.frombuffer(done.stdout, "<f4")


def _render(table: Sequence[tuple[str, str, list[int], int, bool]]) -> str:
    """Write the table of cases; every other case computes its tiles in two calls."""
    lines = ['#include "kernel_driver.c"']
    lines += [f"void {symbol}(void);" for symbol, *_ in table]
    lines.append("const kernel_case CASES[] = {")
    for number, (symbol, name, sizes, tiles, fetches) in enumerate(table):
        listed = ", ".join(map(str, sizes))
        split = tiles // 2 if number % 2 else tiles
        text = name.replace('"', "'")
        numbers = f"{len(sizes)}, {{{listed}}}, {tiles}, {int(fetches)}, {split}"
        lines.append(f'    {{"{text}", {symbol}, {numbers}}},')
    lines += ["};", f"const int NUM_CASES = {len(table)};", ""]
    return "\n".join(lines)
