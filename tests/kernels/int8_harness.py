"""Compiles kernels for bytes or halves, runs them (natively or emulated) on guarded arrays."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ofa_compile.compiler.kernel_registry import VectorMachine, find_kernel
from ofa_compile.hardware.emulator import find_emulator
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.cases import stored
from ofa_compile.tuning.references import Case

Array = NDArray[Any]


def run_cases(cases: Sequence[tuple[Case, Any]], target: TargetSpec, folder: Path) -> list[Array]:
    """Run each case with a configuration; tiles are computed in two calls, the last ones first."""
    from ofa_compile.compiler.codegen import compile_object

    machine, functions, calls, data = VectorMachine.of(target), {}, [], []
    for number, (case, config) in enumerate(cases):
        kernel = find_kernel(case.workload)
        assert kernel is not None
        functions[f"kernel_{number}"] = kernel.build(case.workload, config, machine)
        packed = kernel.pack(case.workload, config, machine, case.constants)
        arrays = [stored(array, machine) for array in (*case.inputs, *packed)]
        data += [array.tobytes() for array in arrays]
        sizes = [array.nbytes for array in arrays] + [case.expected.nbytes]
        calls.append((number, sizes, kernel.num_tiles(case.workload, config, machine)))
    (folder / "kernels.o").write_bytes(compile_object(functions, target.tvm_target))
    (folder / "main.c").write_text(_render(calls))
    compiler = find_linker(target).static_command
    command = [*compiler, "-std=c11", "-O1", "main.c", "kernels.o", "-o", "program", "-lm"]
    subprocess.run(command, cwd=folder, check=True)
    emulator = [] if target.is_native else find_emulator(target) or []
    command = [*emulator, str(folder / "program")]
    done = subprocess.run(command, input=b"".join(data), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    results, position = [], 0
    for case, _ in cases:
        part = done.stdout[position : position + case.expected.nbytes]
        position += case.expected.nbytes
        results.append(_read(part, case.expected, machine))
    assert position == len(done.stdout)
    return results


def _read(data: bytes, like: Array, machine: VectorMachine) -> Array:
    if like.dtype == np.uint8 and machine.byte_type == "int8":
        signed = np.frombuffer(data, np.int8).astype(np.int16)
        return (signed + 128).astype(np.uint8).reshape(like.shape)
    return np.frombuffer(data, like.dtype).reshape(like.shape)


def _render(calls: Sequence[tuple[int, list[int], int]]) -> str:
    """Write a program that calls the kernels on data from standard input."""
    lines = [_DRIVER]
    for number, sizes, _ in calls:
        pointers = ", ".join(["void *"] * len(sizes))
        lines.append(f"void kernel_{number}({pointers}, int, int);")
    lines.append("int main(void) {")
    for number, sizes, tiles in calls:
        lines.append("    {")
        lines += [f"        void *a{i} = take({size});" for i, size in enumerate(sizes[:-1])]
        last, size = len(sizes) - 1, sizes[-1]
        lines.append(f"        unsigned char *a{last} = guarded({size});")
        names = ", ".join(f"a{i}" for i in range(len(sizes)))
        for begin, end in ((tiles // 2, tiles), (0, tiles // 2)):
            lines.append(f"        kernel_{number}({names}, {begin}, {end});")
        lines.append(f"        give(a{last}, {size}, {number});")
        lines.append("    }")
    lines += ["    return 0;", "}", ""]
    return "\n".join(lines)


# Arrays end where the memory does that may be read, give or take their alignment.
_DRIVER = """\
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
enum { GUARD = 64, PAGE = 65536, UNTOUCHED = 0xA5 };
static unsigned char *allocate(size_t size) {
    size_t span = (size + 2 * GUARD + PAGE - 1) / PAGE * PAGE;
    unsigned char *memory = mmap(NULL, span + PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + span, PAGE, PROT_NONE) != 0) exit(2);
    return memory + (span - size) / GUARD * GUARD;
}
static void *take(size_t size) {
    unsigned char *array = allocate(size);
    if (fread(array, 1, size, stdin) != size) exit(3);
    return array;
}
static unsigned char *guarded(size_t size) {
    unsigned char *array = allocate(size + GUARD);
    memset(array - GUARD, UNTOUCHED, size + 2 * GUARD);
    return array;
}
static void give(const unsigned char *array, size_t size, int number) {
    for (size_t i = 0; i < GUARD; i++) {
        if (array[-1 - (long)i] == UNTOUCHED && array[size + i] == UNTOUCHED) continue;
        fprintf(stderr, "kernel %d wrote outside its output\\n", number);
        exit(1);
    }
    fwrite(array, 1, size, stdout);
}
"""
