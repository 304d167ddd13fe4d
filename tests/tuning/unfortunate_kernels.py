"""Kernels that are right, wrong, crash and hang, as candidates of a tuner."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ofa_compile.compiler.workload import Activate
from ofa_compile.hardware.target_spec import TargetSpec
from ofa_compile.hardware.toolchain import find_linker
from ofa_compile.tuning.jobs import BuiltCandidate, BuiltJob, Job, Runner, TrialResult

WORK = Activate(64, "relu")
# y = relu(x) over 64 values, in several unfortunate ways.
KERNELS = """\
#include <stdint.h>
#define KERNEL(name, ...) \\
    void name(const float *x, float *y, int32_t begin, int32_t end) { \\
        (void)begin, (void)end; \\
        for (int i = 0; i < 64; i++) y[i] = x[i] > 0 ? x[i] : 0; \\
        __VA_ARGS__ \\
    }
KERNEL(right, )
KERNEL(slow, for (volatile int i = 0; i < 100000; i++);)
KERNEL(off_by_a_little, y[17] += 0.01f;)
KERNEL(skips_one, y[63] = 0.0f / 0.0f;)
KERNEL(overruns, y[64] = 1;)
KERNEL(crashes, *(volatile int *)0 = 1;)
KERNEL(hangs, for (;;) __asm__ volatile("");)
"""


def write_kernels(folder: Path, target: TargetSpec) -> None:
    """Compile them for a target: `kernels.o`, `kernels.so` and the data that they run on."""
    compiler = find_linker(target).command
    (folder / "kernels.c").write_text(KERNELS, encoding="utf-8")
    for output, *flags in (("kernels.o", "-c"), ("kernels.so", "-shared")):
        command = [*compiler, "-O1", "-fPIC", *flags, "-o", output, "kernels.c"]
        subprocess.run(command, cwd=folder, check=True)
    x = np.linspace(-1, 1, 64, dtype=np.float32)
    np.savez(folder / "data.npz", input_0=x, expected=np.maximum(x, 0))


def built_job(folder: Path, symbols: Sequence[str]) -> BuiltJob:
    """Return a job of some of them."""
    candidates = tuple(
        BuiltCandidate({}, None, folder / "kernels.so", symbol, folder / "data.npz", ("input_0",))
        for symbol in symbols
    )
    return BuiltJob(Job(WORK, ({},) * len(symbols)), candidates, 0.0)


def run_kernels(runner: Runner, folder: Path, *symbols: str) -> list[TrialResult]:
    """Run some of them together."""
    return runner.submit(built_job(folder, symbols)).result(60)
